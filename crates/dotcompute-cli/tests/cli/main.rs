//! The integration tests of the command line program. They are one program, because each test program compiles and links for several seconds.

mod detect;
mod documented;
mod snapshots;
mod watch;
