/**
 * The messages of proto/berth-v1.proto as types. 64-bit numbers are decimal text, and lists arrive as arrays.
 */

export type ImportRequest = { readonly name?: string; readonly archive?: Buffer };
export type ImportResponse = { readonly progress?: TransferMessage; readonly images?: readonly NamedImage[] };
export type ExportRequest = { readonly images?: readonly string[] };
export type ExportResponse = { readonly archive?: Buffer; readonly total_bytes?: string };
export type PullRequest = { readonly image?: string };
export type PullResponse = { readonly progress?: TransferMessage; readonly id?: string };
export type PullsRequest = Readonly<Record<string, never>>;
export type PullsResponse = { readonly pulls?: readonly TransferMessage[] };
export type NamedImage = { readonly id: string; readonly names: readonly string[] };

export type TransferMessage = {
  readonly image?: string;
  readonly started_at_ms?: string;
  readonly state?: string;
  readonly layers?: readonly LayerTransferMessage[];
  readonly received_bytes?: string;
  readonly host?: string;
  readonly retries?: number;
};

export type LayerTransferMessage = { readonly digest?: string; readonly done_bytes?: string; readonly total_bytes?: string; readonly state?: string };
