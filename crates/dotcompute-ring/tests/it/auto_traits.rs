//! Which ends, claims and iterators may move to another thread or be shared, for values of every kind.
//!
//! A hand-written `Send` or `Sync` that is too generous is a data race from safe code.

use std::cell::Cell;
use std::rc::Rc;

use dotcompute_ring::{mailbox, mpsc, notifier, reply, spsc, wait_list};

/// Whether a type is `Send`, and whether it is `Sync`.
macro_rules! auto_traits {
    ($ty:ty) => {{
        use std::marker::PhantomData;

        // An inherent constant, which exists only if the bound holds, comes before the trait's constant of the same name.
        #[allow(dead_code)]
        struct Probe<T: ?Sized>(PhantomData<T>);
        #[allow(dead_code)]
        trait Otherwise {
            const SEND: bool = false;
            const SYNC: bool = false;
        }
        impl<T: ?Sized> Otherwise for Probe<T> {}
        #[allow(dead_code)]
        impl<T: ?Sized + Send> Probe<T> {
            const SEND: bool = true;
        }
        #[allow(dead_code)]
        impl<T: ?Sized + Sync> Probe<T> {
            const SYNC: bool = true;
        }
        (<Probe<$ty>>::SEND, <Probe<$ty>>::SYNC)
    }};
}

/// Asserts whether a type is `Send` and `Sync` for values that are both, for values that are only `Send`, and for values that are neither.
macro_rules! assert_auto_traits {
    ($($ty:ident)::+ $(<$life:lifetime>)?: $both:expr, $send_only:expr, $neither:expr) => {
        for (values, found, expected) in [
            ("both", auto_traits!($($ty)::+<$($life,)? u64>), $both),
            ("only `Send`", auto_traits!($($ty)::+<$($life,)? Cell<u64>>), $send_only),
            ("neither", auto_traits!($($ty)::+<$($life,)? Rc<u64>>), $neither),
        ] {
            let name = stringify!($($ty)::+);
            assert_eq!(found, expected, "{name}: (Send, Sync) for values that are {values}");
        }
    };
}

const BOTH: (bool, bool) = (true, true);
const SEND: (bool, bool) = (true, false);
const NEITHER: (bool, bool) = (false, false);

#[test]
fn the_probe_tells_the_traits_apart() {
    assert_eq!(auto_traits!(u64), BOTH);
    assert_eq!(auto_traits!(Cell<u64>), SEND);
    assert_eq!(auto_traits!(std::sync::MutexGuard<'static, u64>), (false, true));
    assert_eq!(auto_traits!(Rc<u64>), NEITHER);
}

/// A claim relies on one thread using the end that it borrows, so these are never `Sync`.
#[test]
fn an_spsc_end_and_its_claims_move_but_are_not_shared() {
    assert_auto_traits!(spsc::Producer: SEND, SEND, NEITHER);
    assert_auto_traits!(spsc::Consumer: SEND, SEND, NEITHER);
    assert_auto_traits!(spsc::ClaimedWrite<'static>: SEND, SEND, NEITHER);
    assert_auto_traits!(spsc::ClaimedRead<'static>: SEND, SEND, NEITHER);
}

/// A claim can be iterated twice at once, so an iterator on another thread shares the values with this one.
#[test]
fn references_into_a_claim_move_only_if_the_values_may_be_shared() {
    assert_auto_traits!(spsc::Iter<'static>: BOTH, NEITHER, NEITHER);
}

/// Their shared methods give access to counts, and move values in or out, but never to a `&T`.
#[test]
fn ends_for_many_producers_are_shared_if_the_values_may_move() {
    assert_auto_traits!(mpsc::Producer: BOTH, BOTH, NEITHER);
    assert_auto_traits!(mpsc::Consumer: BOTH, BOTH, NEITHER);
    assert_auto_traits!(mailbox::Sender: BOTH, BOTH, NEITHER);
    assert_auto_traits!(mailbox::Receiver: BOTH, BOTH, NEITHER);
    assert_auto_traits!(reply::ReplySlot: BOTH, BOTH, NEITHER);
    assert_auto_traits!(reply::ReplySender: BOTH, BOTH, NEITHER);
}

#[test]
fn wait_points_are_shared() {
    assert_eq!(auto_traits!(notifier::Notifier), BOTH);
    assert_eq!(auto_traits!(wait_list::WaitList), BOTH);
}
