/**
 * A type that accepts exactly the fields of a shape and no others. Types only.
 */

/**
 * `Given`, with a compile error if it has a field that `Shape` lacks. TypeScript accepts an object with extra fields; if such an object is then
 * spread into another, its extra fields silently overwrite fields there.
 *
 *   function f<Given extends Shape>(given: Exact<Shape, Given>)
 */
export type Exact<Shape, Given extends Shape> = Given & { readonly [Field in Exclude<keyof Given, keyof Shape>]: never };
