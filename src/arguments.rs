//! The types that are accepted as arguments of a function call.

use serde::Serialize;

/// The arguments of a function: a tuple of up to twelve values, an array, a slice or a `Vec`. `()`
/// stands for no arguments.
///
/// Each value is anything that serialises with serde. The compiler checks that the arguments are a
/// list. The function checks whether they are what it expects.
///
/// This trait is sealed: it is not implemented outside of keyfob.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a list of function arguments",
    label = "expected a tuple, an array, a slice or a `Vec`",
    note = "for one argument, write a tuple with a trailing comma: `(argument,)`",
    note = "for no arguments, write `()`"
)]
pub trait Arguments: Serialize + sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
}

macro_rules! tuples {
    ($(($($name:ident)*))*) => {
        $(
            impl<$($name: Serialize),*> sealed::Sealed for ($($name,)*) {}
            impl<$($name: Serialize),*> Arguments for ($($name,)*) {}
        )*
    };
}

tuples! {
    ()
    (A)
    (A B)
    (A B C)
    (A B C D)
    (A B C D E)
    (A B C D E F)
    (A B C D E F G)
    (A B C D E F G H)
    (A B C D E F G H I)
    (A B C D E F G H I J)
    (A B C D E F G H I J K)
    (A B C D E F G H I J K L)
}

impl<T: Serialize> sealed::Sealed for [T] {}
impl<T: Serialize> Arguments for [T] {}

impl<T, const N: usize> sealed::Sealed for [T; N] where [T; N]: Serialize {}
impl<T, const N: usize> Arguments for [T; N] where [T; N]: Serialize {}

impl<T: Serialize> sealed::Sealed for Vec<T> {}
impl<T: Serialize> Arguments for Vec<T> {}

impl<A: sealed::Sealed + ?Sized> sealed::Sealed for &A {}
impl<A: Arguments + ?Sized> Arguments for &A {}
