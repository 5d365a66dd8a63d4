/**
 * Who asks: the credentials of a pull request, and the challenges by which a registry says what it wants to see.
 *
 * Pure: never sends anything. No message made here contains a credential.
 */

/** As the CRI request carries it; '' where unset. */
export type RegistryAuth = {
  readonly username: string;
  readonly password: string;
  /** Base64 of `username:password`. */
  readonly auth: string;
  /** The registry that these are for, '' when the request does not say. */
  readonly serverAddress: string;
  readonly identityToken: string;
  readonly registryToken: string;
};
