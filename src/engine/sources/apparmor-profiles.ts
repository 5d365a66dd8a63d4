/**
 * Ensures that a container's AppArmor profile is loaded.
 */
import { failedPrecondition } from '../../lib/errors.ts';
import { isProfileLoaded, loadProfile, ownProfile } from '../../sys/process/apparmor.ts';
import { defaultProfileName, defaultProfileText } from '../plan/apparmor.ts';

/**
 * Loads berth's default profile if it is not loaded. Other profiles are loaded by the administrator.
 *
 * @param name undefined: no profile.
 * @throws {BerthError} FAILED_PRECONDITION for another profile that is not loaded.
 */
export async function ensureAppArmorProfile(name: string | undefined): Promise<void> {
  if (name === undefined || isProfileLoaded(name)) return;
  if (name !== defaultProfileName) throw failedPrecondition(`AppArmor profile ${name} is not loaded on this node`);
  await loadProfile(defaultProfileText(ownProfile()));
}
