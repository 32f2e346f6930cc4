//! A task's OCI runtime spec. Pure; must not know of files.
