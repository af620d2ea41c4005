//! Temperatures and throttling, as the kernel and the Raspberry Pi firmware tell them.
use crate::{Host, read_trimmed, sorted_entries};

/// A thermal zone's reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Temperature {
    /// The zone's type, such as `cpu-thermal`, followed by its number when two zones have the same.
    pub zone: String,
    /// Degrees Celsius.
    pub celsius: f32,
}

/// What the Raspberry Pi firmware held back, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Throttling {
    /// Conditions that hold now.
    pub now: Vec<&'static str>,
    /// Conditions that held at some time since the machine started.
    pub since_boot: Vec<&'static str>,
}

/// The firmware's bits (`vcgencmd get_throttled`); the same, 16 higher, for "has happened since boot".
const CONDITIONS: [&str; 4] = ["undervoltage", "frequency capped", "throttled", "soft temperature limit"];

impl Host {
    /// Every readable thermal zone of `/sys/class/thermal`, in the kernel's order; empty where there is none.
    #[must_use]
    pub fn temperatures(&self) -> Vec<Temperature> {
        let zones: Vec<(String, String, f32)> = sorted_entries(&self.path("/sys/class/thermal"))
            .into_iter()
            .filter_map(|folder| {
                let number = folder.file_name()?.to_str()?.strip_prefix("thermal_zone")?.to_owned();
                // A zone whose sensor is off gives an I/O error instead of a number.
                let millidegrees: f32 = read_trimmed(&folder.join("temp"))?.parse().ok()?;
                let kind = read_trimmed(&folder.join("type")).unwrap_or_else(|| "thermal_zone".to_owned());
                Some((kind, number, millidegrees / 1000.0))
            })
            .collect();
        let alone = |kind: &str| zones.iter().filter(|z| z.0 == kind).count() == 1;
        zones
            .iter()
            .map(|(kind, number, celsius)| Temperature {
                zone: if alone(kind) { kind.clone() } else { format!("{kind}{number}") },
                celsius: *celsius,
            })
            .collect()
    }

    /// The firmware's report; `None` on anything but a Raspberry Pi.
    #[must_use]
    pub fn throttling(&self) -> Option<Throttling> {
        let bits = sorted_entries(&self.path("/sys/devices/platform"))
            .into_iter()
            .flat_map(|soc| sorted_entries(&soc))
            .filter(|p| p.to_string_lossy().ends_with("firmware"))
            .find_map(|p| read_trimmed(&p.join("get_throttled")))?;
        let bits = u32::from_str_radix(bits.trim_start_matches("0x"), 16).ok()?;
        let named = |shift: usize| {
            (0..CONDITIONS.len()).filter(|i| bits >> (i + shift) & 1 == 1).map(|i| CONDITIONS[i]).collect()
        };
        Some(Throttling { now: named(0), since_boot: named(16) })
    }
}

#[cfg(test)]
mod tests {
    use crate::tests_support::Machine;

    #[test]
    fn zones_are_named_by_type_and_told_apart() {
        let m = Machine::new();
        for (n, kind, temp) in
            [(0, "cpu-thermal", "48750\n"), (10, "nvme", "40000"), (2, "nvme", "-5000"), (3, "off", "")]
        {
            m.write(&format!("sys/class/thermal/thermal_zone{n}/type"), kind);
            m.write(&format!("sys/class/thermal/thermal_zone{n}/temp"), temp);
        }
        m.write("sys/class/thermal/cooling_device0/type", "fan");
        let got: Vec<_> = m.host().temperatures().into_iter().map(|t| (t.zone, t.celsius)).collect();
        assert_eq!(got, [("cpu-thermal".to_owned(), 48.75), ("nvme2".to_owned(), -5.0), ("nvme10".to_owned(), 40.0)]);
        assert!(Machine::new().host().temperatures().is_empty());
    }

    #[test]
    fn throttling_bits_have_names() {
        let m = Machine::new();
        assert_eq!(m.host().throttling(), None);
        m.write("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n");
        let t = m.host().throttling().expect("firmware is there");
        assert_eq!(t.now, ["undervoltage", "throttled"]);
        assert_eq!(t.since_boot, ["undervoltage", "throttled"]);
    }
}
