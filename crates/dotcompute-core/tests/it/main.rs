//! The integration tests of the runtime. They are one program, because each test program compiles and links for several seconds. Tests that
//! replace the allocator of their process are programs of their own.

mod big_messages;
mod conformance;
mod connections;
mod conservation;
mod deadlines;
mod device;
mod dropped_runtime;
mod environment;
mod failed_kernels;
mod inline_asks;
mod lifecycle;
mod memory_pool;
mod message_encoding;
mod message_record;
mod orchestrator;
mod pipeline;
mod shutdown;
mod stop;
mod supervision;
mod unified_buffer;
mod user_code_panics;
mod waits;
