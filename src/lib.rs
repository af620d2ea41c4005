//! pgedge: PostgreSQL as the whole data layer of an edge AI box.
use pgrx::prelude::*;

::pgrx::pg_module_magic!(name, version);
