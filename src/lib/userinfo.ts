/**
 * Removes credentials from names of images and registries. Pure.
 */

/** `user:password@`, as in a URL, but not the `name:tag@` before a digest. */
const userinfo = /[^\s/"'@]*:[^\s/"'@]*@(?!sha\d+[:/])/g;

/** Returns the text with `***@` in place of a user name and password, which some people write before the host of an image name. */
export function withoutUserinfo(text: string): string {
  return text.replaceAll(userinfo, '***@');
}
