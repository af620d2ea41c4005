//! What surrounds the engine: merging, serialising, memory, pairs, matrix, errors.

use std::sync::Arc;

use pgedge_similarity::{
    Error, Hit, Metric, Queries, Range, RowId, Scanner, Simd, TopK, queries_for_budget, similar_pairs,
    similarity_matrix,
};

fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
        })
        .collect()
}

/// Few distinct rows, so that ties cross the borders of the parts.
fn tied_rows(n: usize, dim: usize) -> Vec<Vec<f32>> {
    let distinct: Vec<Vec<f32>> = noise(17 * dim, 5).chunks(dim).map(<[f32]>::to_vec).collect();
    (0..n).map(|i| distinct[i * 7 % 17].clone()).collect()
}

fn scan<I: RowId>(queries: &Arc<Queries>, k: usize, rows: impl Iterator<Item = (I, Vec<f32>)>) -> TopK<I> {
    let state = TopK::new(queries.metric(), queries.len(), k, None).unwrap();
    let mut scan = Scanner::new(Arc::clone(queries), state).unwrap();
    for (id, row) in rows {
        scan.push(id, &row).unwrap();
    }
    scan.finish().unwrap()
}

fn all<I: RowId>(mut state: TopK<I>) -> Vec<Vec<Hit<I>>> {
    (0..state.queries()).map(|q| state.take(q)).collect()
}

#[test]
fn parts_merged_in_any_order_equal_the_whole() {
    let (dim, k) = (80, 13);
    let rows = tied_rows(900, dim);
    for count in [2, 20, 60] {
        let queries = Arc::new(Queries::new(Simd::detect(), Metric::Cosine, dim, &noise(count * dim, 9)).unwrap());
        let id = |i: usize| format!("row {:03}", i * 37 % 900);
        let whole = all(scan(&queries, k, rows.iter().enumerate().map(|(i, r)| (id(i), r.clone()))));
        for parts in [2, 3, 7] {
            let mut states: Vec<TopK<String>> = (0..parts)
                .map(|p| {
                    scan(
                        &queries,
                        k,
                        rows.iter().enumerate().filter(|(i, _)| i % parts == p).map(|(i, r)| (id(i), r.clone())),
                    )
                })
                .collect();
            // Through bytes, as from a worker process, the last part first.
            let mut merged: TopK<String> = TopK::new(Metric::Cosine, count, k, None).unwrap();
            while let Some(state) = states.pop() {
                let mut bytes = Vec::new();
                state.serialise(&mut bytes).unwrap();
                merged.merge(&TopK::deserialise(&bytes).unwrap()).unwrap();
            }
            assert_eq!(all(merged), whole, "{parts} parts, {count} queries");
        }
    }
}

#[test]
fn damaged_bytes_are_refused() {
    let queries = Arc::new(Queries::new(Simd::detect(), Metric::L2, 4, &noise(12, 1)).unwrap());
    let state = scan(&queries, 3, noise(40, 2).chunks(4).enumerate().map(|(i, r)| (i as i64, r.to_vec())));
    let mut bytes = Vec::new();
    state.serialise(&mut bytes).unwrap();
    for cut in 0..bytes.len() {
        assert!(
            matches!(TopK::<i64>::deserialise(&bytes[..cut]), Err(Error::Corrupt(_) | Error::Shape(_))),
            "cut at {cut}"
        );
    }
    for at in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            // Any answer but a panic or a huge allocation.
            let _ = TopK::<i64>::deserialise(&damaged);
        }
    }
    bytes.push(0);
    assert_eq!(TopK::<i64>::deserialise(&bytes).err(), Some(Error::Corrupt("bytes follow it")));
    let other = TopK::<i64>::new(Metric::L2, 3, 4, None).unwrap();
    assert!(matches!(TopK::new(Metric::L2, 3, 3, None).unwrap().merge(&other), Err(Error::Mismatch(_))));
}

#[test]
fn wrong_shapes_are_errors() {
    let simd = Simd::detect();
    assert!(matches!(Queries::new(simd, Metric::L2, 0, &[]), Err(Error::Shape(_))));
    assert!(matches!(Queries::new(simd, Metric::L2, 3, &[1.0; 4]), Err(Error::Shape(_))));
    assert!(matches!(TopK::<i64>::new(Metric::L2, 1, 0, None), Err(Error::Shape(_))));
    assert!(matches!(TopK::<i64>::new(Metric::L2, 1, 1, Some(f32::NAN)), Err(Error::Shape(_))));
    assert!(matches!(Range::<i64>::new(Metric::L2, f32::NAN), Err(Error::Shape(_))));
    let queries = Arc::new(Queries::new(simd, Metric::L2, 2, &[1.0; 4]).unwrap());
    let mut scan = Scanner::new(queries, TopK::<i64>::new(Metric::L2, 2, 1, None).unwrap()).unwrap();
    assert_eq!(scan.push(1, &[1.0; 3]), Err(Error::Dimension { expected: 2, found: 3 }));
    assert_eq!(scan.push(1, &[1.0; 2]), Ok(()));
}

#[test]
fn memory_stays_within_what_was_promised() {
    let simd = Simd::detect();
    for (dim, count, k) in [(3, 1, 5), (384, 100, 10), (384, 1000, 3), (1000, 50, 400)] {
        let queries = Arc::new(Queries::new(simd, Metric::Cosine, dim, &noise(dim * count, 3)).unwrap());
        let state = TopK::<i64>::new(Metric::Cosine, count, k, None).unwrap();
        let mut scan = Scanner::new(Arc::clone(&queries), state).unwrap();
        for (i, row) in noise(500 * dim, 4).chunks(dim).enumerate() {
            scan.push(i as i64, row).unwrap();
        }
        scan.flush().unwrap();
        assert!(
            queries.bytes() <= Queries::bytes_for(simd, dim, count),
            "{} {}",
            queries.bytes(),
            Queries::bytes_for(simd, dim, count)
        );
        let held = scan.sink_mut().bytes();
        assert!(held <= TopK::<i64>::bytes_for(count, k), "{held} {}", TopK::<i64>::bytes_for(count, k));
        let total = queries.bytes() + held + scan.bytes();
        assert!(queries_for_budget::<i64>(simd, dim, k, total) <= count + 16);
        let fits = queries_for_budget::<i64>(simd, dim, k, 4 << 20);
        assert!(fits >= 1);
        // Taking the rows out gives the memory back.
        for q in 0..count {
            scan.sink_mut().take(q);
        }
        assert_eq!(scan.sink_mut().bytes(), TopK::<i64>::new(Metric::Cosine, count, k, None).unwrap().bytes());
    }
}

#[test]
fn pairs_and_matrix_agree_with_single_scores() {
    let dim = 66;
    let rows: Vec<f32> = tied_rows(130, dim).concat();
    for simd in Simd::available() {
        for (metric, limit) in
            [(Metric::Cosine, 0.1), (Metric::L2, 3.0), (Metric::InnerProduct, 0.5), (Metric::Cosine, 2.0)]
        {
            let mut matrix = vec![0.0; 130 * 130];
            similarity_matrix(simd, metric, dim, &rows, &rows, &mut matrix, || Ok(())).unwrap();
            let mut want = Vec::new();
            for i in 0..130 {
                for j in 0..130 {
                    let score = simd.score(metric, &rows[i * dim..][..dim], &rows[j * dim..][..dim]).unwrap();
                    assert_eq!(score.to_bits(), matrix[i * 130 + j].to_bits());
                    let near = if metric == Metric::L2 { score <= limit } else { score >= limit };
                    if i < j && near {
                        want.push((i as u32, j as u32, score));
                    }
                }
            }
            let mut got = Vec::new();
            similar_pairs(
                simd,
                metric,
                dim,
                &rows,
                limit,
                || Ok(()),
                |i, j, score| {
                    got.push((i, j, score));
                    Ok(())
                },
            )
            .unwrap();
            got.sort_by_key(|&(i, j, _)| (i, j));
            assert_eq!(got, want, "{metric:?} {simd:?}");
            assert_eq!(want.is_empty(), limit == 2.0);
        }
    }
    let stop =
        similar_pairs(Simd::detect(), Metric::Cosine, dim, &rows, 0.1, || Err(Error::Interrupted), |_, _, _| Ok(()));
    assert_eq!(stop, Err(Error::Interrupted));
    assert!(similarity_matrix(Simd::detect(), Metric::Cosine, dim, &rows, &rows, &mut [0.0; 3], || Ok(())).is_err());
}

#[test]
fn range_finds_every_pair_within_the_limit() {
    let dim = 70;
    let queries = Arc::new(Queries::new(Simd::detect(), Metric::Cosine, dim, &noise(50 * dim, 8)).unwrap());
    let rows = noise(300 * dim, 9);
    let mut scan = Scanner::new(Arc::clone(&queries), Range::<u64>::new(Metric::Cosine, 0.2).unwrap()).unwrap();
    let mut got = Vec::new();
    for (i, row) in rows.chunks(dim).enumerate() {
        scan.push(i as u64, row).unwrap();
        got.extend(scan.sink_mut().take());
    }
    got.extend(scan.finish().unwrap().take());
    got.sort_by_key(|&(q, id, _)| (q, id));
    let want: Vec<(u32, u64, f32)> = (0..50)
        .flat_map(|q| rows.chunks(dim).enumerate().map(move |(i, row)| (q, i, row)))
        .map(|(q, i, row)| (q as u32, i as u64, Simd::detect().score(Metric::Cosine, queries.query(q), row).unwrap()))
        .filter(|hit| hit.2 >= 0.2)
        .collect();
    assert!(want.len() > 50);
    assert_eq!(got, want);
}

#[test]
fn queries_given_up_leave_the_others_as_they_are() {
    let (dim, k) = (80, 13);
    let rows = tied_rows(900, dim);
    for (count, kept) in [(3, 1), (20, 7), (60, 33), (60, 60)] {
        let flat = noise(count * dim, 9);
        let queries = Arc::new(Queries::new(Simd::detect(), Metric::L2, dim, &flat).unwrap());
        // Without room to spare, so that a copy counts as much.
        let id = |i: usize| String::from(Box::<str>::from(format!("row {:03}", i * 37 % 900)));
        let whole = all(scan(&queries, k, rows.iter().enumerate().map(|(i, r)| (id(i), r.clone()))));
        for after in [0, 40, 500, 900] {
            let state = TopK::new(Metric::L2, count, k, None).unwrap();
            let mut scan = Scanner::new(Arc::clone(&queries), state).unwrap();
            for (i, row) in rows.iter().enumerate() {
                if i == after {
                    scan.sink_mut().keep_first(kept);
                    scan.keep_first(kept);
                }
                scan.push(id(i), row).unwrap();
            }
            let mut state = scan.finish().unwrap();
            state.keep_first(kept);
            assert_eq!(state.queries(), kept);
            let empty = TopK::<String>::new(Metric::L2, kept, k, None).unwrap().bytes();
            assert!(state.bytes() > empty);
            let found: Vec<_> = (0..kept).map(|q| state.take(q)).collect();
            assert_eq!(found, whole[..kept], "{count} {kept} {after}");
            assert_eq!(state.bytes(), empty);
        }
    }
}

#[test]
fn interrupts_end_packing_scanning_and_carrying() {
    use std::cell::Cell;
    thread_local!(static LEFT: Cell<u32> = const { Cell::new(0) });
    fn interrupt() -> Result<(), Error> {
        LEFT.with(|left| {
            left.set(left.get().checked_sub(1).ok_or(Error::Interrupted)?);
            Ok(())
        })
    }
    let (dim, count) = (64, 3000);
    let flat = noise(count * dim, 3);
    let mut seen = [false; 3];
    for allowed in 0..40 {
        LEFT.set(allowed);
        let Ok(queries) = Queries::with_interrupt(Simd::detect(), Metric::Cosine, dim, &flat, interrupt) else {
            seen[0] = true;
            continue;
        };
        let state = TopK::<i64>::new(Metric::Cosine, count, 5, None).unwrap();
        let Ok(mut scan) = Scanner::new(Arc::new(queries), state) else {
            seen[1] = true;
            continue;
        };
        // 96 rows make a tile of some hundred panels, each of which asks.
        let stopped = flat.chunks(dim).take(200).enumerate().find_map(|(i, row)| scan.push(i as i64, row).err());
        seen[2] |= stopped == Some(Error::Interrupted);
        assert!(stopped.is_some(), "{allowed}");
    }
    assert_eq!(seen, [true; 3]);
    let mut state = TopK::<i64>::new(Metric::L2, 1, 20000, None).unwrap();
    (0..20000).for_each(|i| assert!(state.offer_score(0, i as f32, &i).unwrap()));
    let mut bytes = Vec::new();
    let calls = Cell::new(0);
    let count_calls = || {
        calls.set(calls.get() + 1);
        Ok(())
    };
    state.serialise_with(&mut bytes, count_calls).unwrap();
    assert!(calls.replace(0) >= 5);
    assert_eq!(TopK::<i64>::deserialise_with(&bytes, count_calls).unwrap().bytes(), state.bytes());
    assert!(calls.replace(0) >= 5);
    state.merge_with(&TopK::deserialise(&bytes).unwrap(), count_calls).unwrap();
    assert!(calls.get() >= 5);
    assert_eq!(state.serialise_with(&mut Vec::new(), || Err(Error::Interrupted)), Err(Error::Interrupted));
}
