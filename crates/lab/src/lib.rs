//! Build kernels, boot them, and get a verdict. Knows nothing of FUSE.
