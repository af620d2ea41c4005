//! New shapes: their patterns, and what becomes of the rows of patterns that generalise.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use pgedge_logminer::{Growth, OTHER, structure};
use pgrx::check_for_interrupts;

use super::aggregate::{Work, merged_metadata};
use super::batch::Group;
use super::cache::{Learned, Row};
use super::samples::Samples;
use super::store::{self, Hour, Step};
use super::table::{self, Limits, Merge, Stored, Target};
use crate::spi::Session;

/// Patterns that are none any more, each with the one that takes its rows.
type Moves = HashMap<String, String>;

/// The pattern of each group's shape, learning those that are new and merging the rows of patterns that generalise by it.
pub fn learn(
    session: &Session<'_>,
    target: &Target,
    limits: &Limits,
    work: &mut Work<'_>,
    groups: &[Group<'_>],
) -> Vec<Rc<str>> {
    let Learned { set, assembled, .. } = &work.learned;
    let known = |shape: &&str| assembled.contains_key(*shape) || set.contains(shape);
    let unknown: BTreeSet<&str> = groups.iter().map(|g| g.shape.as_str()).filter(|s| !known(s)).collect();
    let growth = work.learned.set.insert_all(unknown, || {
        check_for_interrupts!();
    });
    if !growth.added.is_empty() || !growth.forgotten.is_empty() {
        work.learned.assembled.clear();
        work.change();
        let (added, forgotten): (Vec<&str>, Vec<&str>) =
            (growth.added.iter().map(String::as_str).collect(), growth.forgotten.iter().map(String::as_str).collect());
        store::change_shapes(session, &work.learned, &added, &forgotten);
        // each shape has a number of its own
        work.learned.last_no += added.len() as i64;
    }
    let moves = moves(&mut work.learned, &growth);
    merge_rows(session, target, limits, work, &moves);
    let Learned { set, assembled, .. } = &mut work.learned;
    let mut pattern = |shape: &str| {
        if let Some(known) = assembled.get(shape) {
            return known.clone();
        }
        let Some(pattern) = set.pattern(shape) else { return set.cover(shape).into() };
        let pattern: Rc<str> = pattern.into();
        assembled.insert(shape.into(), pattern.clone());
        pattern
    };
    groups.iter().map(|g| pattern(&g.shape)).collect()
}

/// What becomes of the rows whose patterns are none any more: they generalised, or their shapes were forgotten. Either way their lines go to
/// the pattern that covers them, so no more rows stay than there are patterns. A row of which another version made one and this one makes several is left alone.
fn moves(learned: &mut Learned, growth: &Growth) -> Moves {
    let all = std::mem::take(&mut learned.recheck);
    let mut moves = Moves::new();
    if !all && growth.changed.is_empty() {
        return moves;
    }
    for (pattern, _) in learned.all_rows() {
        check_for_interrupts!();
        if pattern == OTHER || !all && !growth.changed.contains(&structure(pattern)) {
            continue;
        }
        let now = if all { learned.set.successor(pattern) } else { Some(learned.set.cover(pattern)) };
        if let Some(now) = now.filter(|now| now != pattern) {
            moves.insert(pattern.to_owned(), now);
        }
    }
    moves
}

/// Rows that end in the same pattern and level.
struct Family {
    pattern: String,
    rows: Vec<(String, Row)>,
}

/// The rows whose patterns generalised, with those that have the new pattern already.
fn families(learned: &Learned, moves: &Moves) -> Vec<Family> {
    let mut ends: BTreeMap<(String, Option<String>), Vec<(String, Row)>> = BTreeMap::new();
    let mut hit: BTreeSet<String> = BTreeSet::new();
    for (pattern, rows) in learned.all_rows() {
        let Some(end) = moves.get(pattern) else { continue };
        hit.insert(end.clone());
        for row in rows {
            ends.entry((end.clone(), row.level.as_deref().map(str::to_owned)))
                .or_default()
                .push((pattern.to_owned(), row.clone()));
        }
    }
    for end in &hit {
        for row in learned.rows(end) {
            let key = (end.clone(), row.level.as_deref().map(str::to_owned));
            if let Some(family) = ends.get_mut(&key) {
                family.push((end.clone(), row.clone()));
            }
        }
    }
    ends.into_iter().map(|((pattern, _), rows)| Family { pattern, rows }).collect()
}

/// Merges the rows of patterns that became one: the oldest row keeps its id, takes the new pattern and the counts, samples, times and
/// metadata of the others.
fn merge_rows(session: &Session<'_>, target: &Target, limits: &Limits, work: &mut Work<'_>, moves: &Moves) {
    if moves.is_empty() {
        return;
    }
    let families = families(&work.learned, moves);
    if families.is_empty() {
        return;
    }
    work.change();
    let ids = families.iter().flat_map(|f| f.rows.iter().map(|(_, r)| r.id));
    let stored: HashMap<i64, Stored> =
        target.as_owner(|| table::read(session, ids)).into_iter().map(|s| (s.id, s)).collect();
    let mut plan = Plan::default();
    for family in families {
        plan.add(&mut work.learned, work.source, family, &stored);
    }
    if !plan.merges.is_empty() {
        target.as_owner(|| table::merge(session, &plan.merges, limits));
    }
    let gone: Vec<i64> = plan.moved.iter().map(|(from, _)| *from).collect();
    let ends: Vec<i64> = plan.moved.iter().map(|(_, to)| *to).collect();
    if !gone.is_empty() {
        store::move_hours(session, &gone, &ends);
    }
    if !plan.hours.is_empty() {
        store::add_hours(session, &plan.hours);
    }
    plan.lost.extend(gone);
    if !plan.lost.is_empty() {
        store::remove_rows(session, &work.learned, &plan.lost);
    }
    if !plan.steps.is_empty() {
        store::add_lineage(session, &work.learned, work.source, &plan.steps);
    }
    work.touched.extend(plan.merges.iter().map(|m| m.id));
}

/// What merging does to the tables.
#[derive(Default)]
struct Plan {
    merges: Vec<Merge>,
    /// Rows that end in others.
    moved: Vec<(i64, i64)>,
    /// Rows that are no longer there, or no longer what they were.
    lost: Vec<i64>,
    hours: Vec<Hour>,
    steps: Vec<Step>,
}

impl Plan {
    fn add(&mut self, learned: &mut Learned, source: &str, family: Family, stored: &HashMap<i64, Stored>) {
        let Family { pattern, rows } = family;
        let mut rows: Vec<(String, Row, &Stored)> = rows
            .into_iter()
            .filter_map(|(old, row)| {
                learned.remove_row(row.id);
                match stored.get(&row.id).filter(|s| s.is_of(&old, row.level.as_deref(), source)) {
                    Some(s) => Some((old, row, s)),
                    None => {
                        self.lost.push(row.id);
                        None
                    }
                }
            })
            .collect();
        rows.sort_by_key(|(_, row, _)| row.id);
        let Some((_, first, _)) = rows.first() else { return };
        let (id, level) = (first.id, first.level.clone());
        let open_hour = rows.iter().map(|(_, r, _)| r.open_hour).max().unwrap_or(first.open_hour);
        // None, the least, is a row that other clients may have had lines in before.
        let first_hour = rows.iter().map(|(_, r, _)| r.first_hour).min().flatten();
        let mut lines_before = 0;
        let mut samples = Samples::default();
        let mut foreign = None;
        for (old, row, s) in &rows {
            if row.open_hour < open_hour {
                lines_before += s.count;
                let lines = s.count - row.lines_before;
                if lines > 0 {
                    self.hours.push(Hour { row_id: id, hour: row.open_hour, lines });
                }
            } else {
                lines_before += row.lines_before;
            }
            match Samples::stored(s.samples.as_deref(), &row.ranks) {
                Some(more) => samples.merge(&more),
                None => foreign = s.samples.clone(),
            }
            if *old != pattern {
                self.steps.push(Step {
                    id,
                    former_id: row.id,
                    level: s.level.clone(),
                    old: old.clone(),
                    new: pattern.clone(),
                    lines: s.count,
                });
            }
        }
        let ranks: Vec<u64> = samples.ranks().collect();
        self.merges.push(Merge {
            id,
            pattern: pattern.clone(),
            taken: rows.iter().skip(1).any(|(old, _, _)| *old == pattern),
            members: rows.iter().map(|(_, r, _)| r.id).collect(),
            metadata: merged_metadata(rows.iter().map(|(_, _, s)| s.metadata.as_deref())),
            samples: if ranks.is_empty() && foreign.is_some() { foreign } else { Some(samples.to_json()) },
        });
        self.moved.extend(rows.iter().skip(1).map(|(_, r, _)| (r.id, id)));
        let noticed_at = rows.iter().map(|(_, r, _)| r.noticed_at).max().unwrap_or(i64::MIN);
        let alarm = None;
        let place = None;
        learned
            .put_row(&pattern, Row { id, level, place, ranks, first_hour, open_hour, lines_before, noticed_at, alarm });
    }
}
