/**
 * Converts errors to gRPC statuses. Pure.
 */
import { BerthError, type ErrorCode, reasonOf } from '../../lib/errors.ts';

/** Numeric codes: grpc.io, "Status codes and their use in gRPC". */
const codes: Readonly<Record<ErrorCode, number>> = {
  CANCELLED: 1,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  UNAUTHENTICATED: 16,
};

/** @returns the name of a status code; INTERNAL for a code that berth does not use. */
export function errorCodeOf(code: number): ErrorCode {
  return (Object.keys(codes) as ErrorCode[]).find((name) => codes[name] === code) ?? 'INTERNAL';
}

/**
 * UNKNOWN. The kubelet recognizes these pull errors by their prefix, and only with this code: with any other it puts the code before the message.
 * Source: kubelet, cri-client pkg/remote_image.go, pullImageV1; pkg/kubelet/images/image_manager.go, evalCRIPullErr.
 */
const unknown = 2;
const pullErrorPrefix = /^(RegistryUnavailable|SignatureValidationFailed): /;

export type Failure = { readonly name: ErrorCode; readonly code: number; readonly details: string };

/** Status messages are sent in HTTP/2 headers, whose size peers limit, and appear in pod events. */
const detailsLengthMax = 4096;

/**
 * Returns the status of an error; INTERNAL for anything but a BerthError. `name` is the error's own code, even where `code` is UNKNOWN.
 * `details` is one line of well-formed Unicode.
 */
export function failureFrom(error: unknown): Failure {
  const name = error instanceof BerthError ? error.code : 'INTERNAL';
  const line = reasonOf(error)
    .replaceAll(/\s*[\r\n]+\s*/g, ' ')
    .trim();
  const details = line.length > detailsLengthMax ? `${line.slice(0, detailsLengthMax)}…` : line;
  // A lone surrogate would make the header encoder throw.
  return { name, code: pullErrorPrefix.test(details) ? unknown : codes[name], details: details.toWellFormed() };
}
