//! One of each for both of a stream's slots.

use registry::Slot;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots<T> {
    primary: T,
    backup: T,
}

impl<T> Slots<T> {
    pub(crate) fn new(primary: T, backup: T) -> Self {
        Self { primary, backup }
    }

    pub(crate) fn from_fn(mut make: impl FnMut(Slot) -> T) -> Self {
        Self {
            primary: make(Slot::PRIMARY),
            backup: make(Slot::BACKUP),
        }
    }

    pub(crate) fn of(&self, slot: Slot) -> &T {
        if slot == Slot::PRIMARY {
            &self.primary
        } else {
            &self.backup
        }
    }

    pub(crate) fn of_mut(&mut self, slot: Slot) -> &mut T {
        if slot == Slot::PRIMARY {
            &mut self.primary
        } else {
            &mut self.backup
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        [(Slot::PRIMARY, &self.primary), (Slot::BACKUP, &self.backup)].into_iter()
    }
}
