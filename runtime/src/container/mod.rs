//! One container, from an OCI runtime spec to a process. Runs in the shim; must not know of tasks or images.
