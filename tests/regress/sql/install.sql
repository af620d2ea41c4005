\set SHOW_CONTEXT never
-- CREATE EXTENSION in its variants.
CREATE EXTENSION pgedge CASCADE;
SELECT * FROM pgedge.create_tables();
-- what is missing is made again, and nothing else
DROP INDEX idx_events_type;
ALTER TABLE analytics_results DROP COLUMN vector_count;
SELECT * FROM pgedge.create_tables();
-- the tables are the user's: they stay when the extension goes
INSERT INTO analytics_results (analysis_type, results) VALUES ('kept', '{}');
DROP EXTENSION pgedge;
SELECT analysis_type FROM analytics_results;
CREATE EXTENSION pgedge;
SELECT analysis_type FROM analytics_results;
DROP EXTENSION pgedge;
-- another table of that name is refused, and nothing is changed
ALTER TABLE aggregated_logs ALTER COLUMN metadata TYPE text;
CREATE EXTENSION pgedge;
DROP TABLE aggregated_logs;
CREATE VIEW aggregated_logs AS SELECT 1 AS id;
CREATE EXTENSION pgedge;
DROP VIEW aggregated_logs;
CREATE TABLE aggregated_logs (id serial PRIMARY KEY, note text);
CREATE EXTENSION pgedge;
DROP TABLE aggregated_logs;
-- so is one whose columns cannot hold what is written to them, have a type of the same name from elsewhere, or are computed
ALTER TABLE claude_events ALTER COLUMN event_type TYPE varchar(20);
CREATE EXTENSION pgedge;
ALTER TABLE claude_events ALTER COLUMN event_type TYPE text;
CREATE SCHEMA other;
CREATE DOMAIN other.jsonb AS text;
ALTER TABLE claude_events ALTER COLUMN payload TYPE other.jsonb;
CREATE EXTENSION pgedge;
ALTER TABLE claude_events ALTER COLUMN payload TYPE pg_catalog.jsonb USING payload::text::pg_catalog.jsonb;
DROP SCHEMA other CASCADE;
ALTER TABLE claude_events DROP COLUMN last_error, ADD COLUMN last_error text GENERATED ALWAYS AS (status) STORED;
CREATE EXTENSION pgedge;
ALTER TABLE claude_events DROP COLUMN last_error;
-- an id widened to bigint is welcome, and so is a wider text
ALTER TABLE claude_events ALTER COLUMN id TYPE bigint;
CREATE EXTENSION pgedge;
-- nothing is made in a read-only transaction, and the hint says where
BEGIN READ ONLY;
SELECT * FROM pgedge.create_tables();
ROLLBACK;
DROP EXTENSION pgedge;
DROP TABLE vectors, analytics_results, aggregated_logs, claude_events;
-- a schema pgedge that is somebody's own is not taken over
CREATE SCHEMA pgedge;
CREATE EXTENSION pgedge;
DROP SCHEMA pgedge;
-- another schema, one that needs quotes
CREATE SCHEMA "Edge Data";
CREATE EXTENSION pgedge SCHEMA "Edge Data";
SELECT schemaname, tablename FROM pg_tables WHERE tablename IN ('vectors', 'analytics_results', 'aggregated_logs', 'claude_events') ORDER BY 2;
SELECT * FROM pgedge.create_tables();
DROP EXTENSION pgedge;
DROP SCHEMA "Edge Data" CASCADE;
-- as a restore does it: the dump brings the tables
SET row_security = off;
CREATE EXTENSION pgedge;
RESET row_security;
SELECT count(*) FROM pg_tables WHERE tablename = 'vectors';
SELECT * FROM pgedge.create_tables();
DROP EXTENSION pgedge;
DROP TABLE vectors, analytics_results, aggregated_logs, claude_events;
-- no application role may make tables
CREATE EXTENSION pgedge;
CREATE ROLE regress_app;
SET ROLE regress_app;
SELECT * FROM pgedge.create_tables();
RESET ROLE;
DROP ROLE regress_app;
-- not relocatable
ALTER EXTENSION pgedge SET SCHEMA pg_catalog;
