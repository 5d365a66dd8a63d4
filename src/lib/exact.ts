/**
 * A guard for the compiler: a value that has the fields asked for and no others.
 */

/**
 * `Given`, refused when it has a field that `Shape` lacks. TypeScript takes a wider object wherever a narrower one is asked for; where such an
 * object is then spread, its other fields overwrite what stood there.
 *
 *   function f<Given extends Shape>(given: Exact<Shape, Given>)
 */
export type Exact<Shape, Given extends Shape> = Given & { readonly [Field in Exclude<keyof Given, keyof Shape>]: never };
