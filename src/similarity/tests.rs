//! What the SQL functions give inside a backend; exactness at size, workers, privileges and cancelling are in tests/sessions.
use pgrx::prelude::*;

/// The schema that `cargo pgrx test` calls them in.
#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    /// 3,000 rows of 48 dimensions with many equal ones.
    fn fill() {
        Spi::run(
        "CREATE TABLE items AS SELECT i AS id, (SELECT array_agg(sin((i % 700) * j) ORDER BY j) FROM generate_series(1, 48) j)::vector AS embedding \
         FROM generate_series(1, 3000) i; ANALYZE items",
    )
    .unwrap();
    }

    fn text(query: &str) -> String {
        Spi::get_one::<String>(query).unwrap().unwrap()
    }

    const QUERIES: &str = "(SELECT array_agg(embedding ORDER BY id) FROM items WHERE id <= 50)";

    #[pg_test]
    fn similarities_in_order_with_nulls() {
        let got = Spi::get_one::<Vec<Option<f32>>>(
            "SELECT pgedge.batch_similarity('[1,0]', ARRAY['[3,0]', NULL, '[0,2]', '[-1,0]']::vector[])",
        );
        assert_eq!(got, Ok(Some(vec![Some(1.0), None, Some(0.0), Some(-1.0)])));
    }

    #[pg_test]
    fn matrix_is_symmetric_with_ones_on_the_diagonal() {
        fill();
        let got = text(
            "SELECT concat_ws(' ', count(*), bool_and(m[i][j] = m[j][i]), bool_and(i <> j OR m[i][j] = 1)) \
         FROM (SELECT pgedge.similarity_matrix(array_agg(embedding)) AS m FROM items WHERE id <= 40) t, generate_series(1, 40) i, generate_series(1, 40) j",
        );
        assert_eq!(got, "1600 t t");
    }

    #[pg_test]
    fn search_is_what_sorting_gives() {
        fill();
        let ours = text(&format!(
            "SELECT string_agg(id, ',' ORDER BY query_no, rank) FROM pgedge.batch_search({QUERIES}, 9, 'l2', relation => 'items')"
        ));
        let sorted = text(
            "SELECT string_agg(t.id::text, ',' ORDER BY q.id, t.r) FROM items q, LATERAL \
         (SELECT i.id, row_number() OVER (ORDER BY i.embedding <-> q.embedding, i.id) AS r FROM items i) t WHERE q.id <= 50 AND t.r <= 9",
        );
        assert_eq!(ours, sorted);
    }

    #[pg_test]
    fn workers_change_nothing() {
        fill();
        let query = format!("SELECT md5(pgedge.top_k(id, embedding, {QUERIES}, 10, 'cosine')::text) FROM items");
        Spi::run("SET LOCAL max_parallel_workers_per_gather = 0").unwrap();
        let serial = text(&query);
        Spi::run("SET LOCAL max_parallel_workers_per_gather = 2; SET LOCAL parallel_setup_cost = 0; SET LOCAL min_parallel_table_scan_size = 0").unwrap();
        let plan = Spi::connect(|client| {
            let rows = client.select(&format!("EXPLAIN {query}"), None, &[]).unwrap();
            rows.map(|row| row.get::<String>(1).unwrap().unwrap()).collect::<Vec<_>>().join("\n")
        });
        assert!(plan.contains("Partial Aggregate"), "{plan}");
        assert_eq!(text(&query), serial);
    }

    #[pg_test(error = "different vector dimensions 2 and 3")]
    fn dimensions_must_agree() {
        Spi::run("SELECT pgedge.batch_similarity('[1,2]', ARRAY['[1,2,3]'::vector])").unwrap();
    }

    #[pg_test(error = "k must be at least 1, not 0")]
    fn k_must_be_positive() {
        Spi::run("SELECT pgedge.batch_search(ARRAY['[1,2]'::vector], 0)").unwrap();
    }
}
