/**
 * Ensures that a container's AppArmor profile is loaded.
 */
import { failedPrecondition } from '../../lib/errors.ts';
import { isProfileLoaded, loadProfile, ownProfile } from '../../sys/process/apparmor.ts';
import { defaultProfileName, defaultProfileText } from '../plan/apparmor.ts';

export type AppArmorProfiles = {
  /**
   * Loads berth's default profile on its first use: an older version of berth may have loaded another text under the same name. Later uses load it
   * only if it is missing. Other profiles are loaded by the administrator.
   *
   * @param name undefined: no profile.
   * @throws {BerthError} FAILED_PRECONDITION for another profile that is not loaded, and if the default profile cannot be loaded.
   */
  readonly ensure: (name: string | undefined) => Promise<void>;
};

export function createAppArmorProfiles(): AppArmorProfiles {
  let isCurrent = false;
  const ensure = async (name: string | undefined): Promise<void> => {
    if (name === undefined || (isProfileLoaded(name) && (isCurrent || name !== defaultProfileName))) return;
    if (name !== defaultProfileName) throw failedPrecondition(`AppArmor profile ${name} is not loaded on this node`);
    await loadProfile(defaultProfileText(ownProfile()));
    isCurrent = true;
  };
  return { ensure };
}
