/**
 * Errors -> gRPC statuses, in one place. Pure.
 */
import { BerthError, type ErrorCode, reasonOf } from '../../lib/errors.ts';

/** Numbers of the codes: grpc.io, "Status codes and their use in gRPC". */
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

/**
 * A pull's error that the kubelet knows by its first word, it sees as that only with this code: of any other it puts the code in front of the text.
 * Source: kubelet, cri-client pkg/remote_image.go, pullImageV1; pkg/kubelet/images/image_manager.go, evalCRIPullErr.
 */
const unknown = 2;
const wordsOfPulls = /^(RegistryUnavailable|SignatureValidationFailed): /;

export type Failure = { readonly name: ErrorCode; readonly code: number; readonly details: string };

/** Status texts travel in HTTP/2 headers, which peers bound; and they end in the events of pods. */
const detailsLengthMax = 4096;

/** What has no code of its own is INTERNAL. `name`: what it means, also where the number is that of UNKNOWN. The text is one line of well-formed Unicode. */
export function failureFrom(error: unknown): Failure {
  const name = error instanceof BerthError ? error.code : 'INTERNAL';
  const line = reasonOf(error)
    .replaceAll(/\s*[\r\n]+\s*/g, ' ')
    .trim();
  const details = line.length > detailsLengthMax ? `${line.slice(0, detailsLengthMax)}…` : line;
  // A half of a surrogate pair would make the encoder of the header throw.
  return { name, code: wordsOfPulls.test(details) ? unknown : codes[name], details: details.toWellFormed() };
}
