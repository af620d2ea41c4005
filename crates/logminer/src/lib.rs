//! Mines stable patterns from log lines: a pure function of the set of lines, without PostgreSQL.
