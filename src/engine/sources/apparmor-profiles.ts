/**
 * Makes sure that the AppArmor profile of a container is there before it is needed.
 */
import { failedPrecondition } from '../../lib/errors.ts';
import { isProfileLoaded, loadProfile, ownProfile } from '../../sys/process/apparmor.ts';
import { defaultProfileName, defaultProfileText } from '../plan/apparmor.ts';

/**
 * Loads berth's own profile when it is not loaded; all others are the administrator's.
 *
 * @param name undefined: no profile.
 * @throws {BerthError} FAILED_PRECONDITION for one that is not loaded.
 */
export async function ensureAppArmorProfile(name: string | undefined): Promise<void> {
  if (name === undefined || isProfileLoaded(name)) return;
  if (name !== defaultProfileName) throw failedPrecondition(`AppArmor profile ${name} is not loaded on this node`);
  await loadProfile(defaultProfileText(ownProfile()));
}
