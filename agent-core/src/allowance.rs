//! What a person vouches for: that a program never does what its files could.

use patchbay_ebpf_common::Habit;
use patchbay_ebpf_common::habit::tried;
use ssmmp::extension::Allowance;

/// All that is vouched for at one connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowed(u32);

impl Allowed {
    /// With the bits of [`patchbay_ebpf_common::habit::tried`] that are harmless on this kernel, those that are
    /// harmless here.
    pub fn besides(self, harmless: u32) -> u32 {
        harmless | self.0
    }

    /// What a person said and a habit disproves, in words.
    pub fn disproved_by(self, habit: Habit) -> Option<&'static str> {
        let splices = [libc::SYS_splice, libc::SYS_sendfile]
            .into_iter()
            .any(|call| u32::try_from(call).is_ok_and(|call| Habit::call(call) == habit));
        (splices && self.0 & tried::SPLICE != 0).then_some("it was said not to splice out of its sockets")
    }
}

impl FromIterator<Allowance> for Allowed {
    fn from_iter<T: IntoIterator<Item = Allowance>>(allowances: T) -> Self {
        Self(allowances.into_iter().fold(0, |bits, Allowance::Splice| bits | tried::SPLICE))
    }
}

#[cfg(test)]
mod tests {
    use patchbay_ebpf_common::habit::{FIONREAD, could};

    use super::*;

    #[test]
    fn what_is_vouched_for_is_harmless_and_what_is_seen_is_not() {
        let splice: Allowed = [Allowance::Splice].into_iter().collect();
        let (none, could_splice) = (Allowed::default(), Habit::could(could::SPLICE));
        assert!(could_splice.harms(none.besides(0)) && !could_splice.harms(splice.besides(0)));
        assert!(!could_splice.harms(none.besides(tried::SPLICE)));
        let splices = Habit::call(libc::SYS_splice as u32);
        assert!(splices.harms(splice.besides(0)));
        assert!(Habit::ioctl(FIONREAD).harms(splice.besides(0)));
        assert!(Habit::could(could::UNREAD_SIZE).harms(splice.besides(0)));
        assert!(splice.disproved_by(splices).is_some() && none.disproved_by(splices).is_none());
        assert!(splice.disproved_by(could_splice).is_none());
    }
}
