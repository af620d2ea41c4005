//! Exact batch similarity kernels (scalar, AVX2, AVX-512, NEON), without PostgreSQL.
