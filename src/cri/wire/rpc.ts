/**
 * The kinds of RPC in the generated service types. Pure.
 */

/** One request, one response. */
export type Unary<Request, Response> = { readonly kind: 'unary'; readonly request: Request; readonly response: Response };

/** One request, a stream of responses. */
export type Streaming<Request, Response> = { readonly kind: 'streaming'; readonly request: Request; readonly response: Response };

/** A stream of requests, a stream of responses. */
export type Bidirectional<Request, Response> = { readonly kind: 'bidirectional'; readonly request: Request; readonly response: Response };
