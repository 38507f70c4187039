//! Pictures of series, as PNG.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use plotters::prelude::*;

/// A font of our own: the Latin part of DejaVu Sans (see `assets/DejaVuSans-LICENSE.txt`), so that text is drawn on any machine.
const FONT: &[u8] = include_bytes!("../assets/DejaVuSans-subset.ttf");

const WIDTH: u32 = 1400;
const LINE: RGBColor = RGBColor(31, 97, 165);
const SCORE: RGBColor = RGBColor(120, 120, 120);
const ALERT: RGBColor = RGBColor(200, 30, 45);
const WINDOW: RGBColor = RGBColor(245, 190, 60);

/// A picture could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("drawing {}: {problem}; check that its folder exists and can be written to", .path.display())]
pub struct PlotError {
    /// The file that was to be written.
    pub path: PathBuf,
    /// What went wrong.
    pub problem: String,
}

/// One band of a picture.
pub struct Panel<'a> {
    /// Its title.
    pub title: String,
    /// The series: positions (ascending) and values.
    pub points: &'a [(f64, f64)],
    /// Scores between 0 and 1 at positions, drawn on a scale of their own; may be empty.
    pub scores: &'a [(f64, f64)],
    /// Positions and values of alerts.
    pub alerts: Vec<(f64, f64)>,
    /// Labelled windows: from, to.
    pub windows: &'a [(f64, f64)],
}

/// How positions are written under a picture.
pub type Axis = fn(f64) -> String;

/// Draws panels one below the other into a PNG file.
///
/// # Errors
///
/// [`PlotError`] if the file cannot be written.
pub fn draw(path: &Path, title: &str, panels: &[Panel<'_>], axis: Axis) -> Result<(), PlotError> {
    let error = |problem: String| PlotError { path: path.to_owned(), problem };
    register_font().map_err(&error)?;
    // Checked before drawing, for an error in plain words.
    if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("png")) {
        return Err(error(String::from("a picture's name must end in .png")));
    }
    let each = if panels.len() > 4 { 130 } else { 260 };
    let height = 60 + each * panels.len().max(1) as u32;
    let root = BitMapBackend::new(path, (WIDTH, height)).into_drawing_area();
    let drawn = (|| -> Result<(), Box<dyn std::error::Error + '_>> {
        root.fill(&WHITE)?;
        let body = root.titled(title, ("sans-serif", 22))?;
        for (area, panel) in body.split_evenly((panels.len().max(1), 1)).iter().zip(panels) {
            draw_panel(area, panel, axis)?;
        }
        root.present()?;
        Ok(())
    })();
    drawn.map_err(|problem| error(problem.to_string()))
}

fn register_font() -> Result<(), String> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let registered = *REGISTERED
        .get_or_init(|| plotters::style::register_font("sans-serif", FontStyle::Normal, FONT).is_ok());
    if registered { Ok(()) } else { Err(String::from("the built-in font could not be read")) }
}

/// The least and the greatest, with a margin; something sensible for a constant or empty series.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return (0.0, 1.0);
    }
    let margin = if high > low { (high - low) * 0.06 } else { high.abs().max(1.0) * 0.5 };
    (low - margin, high + margin)
}

type Area<'a, 'b> = DrawingArea<BitMapBackend<'b>, plotters::coord::Shift>;

fn draw_panel<'b>(
    area: &Area<'_, 'b>,
    panel: &Panel<'_>,
    axis: Axis,
) -> Result<(), DrawingAreaErrorKind<<BitMapBackend<'b> as DrawingBackend>::ErrorType>> {
    let (low, high) = range(panel.points.iter().map(|point| point.1));
    // The scores get a strip of their own below the values.
    let low = if panel.scores.is_empty() { low } else { low - (high - low) * 0.4 };
    let first = panel.points.first().map_or(0.0, |point| point.0);
    let last = panel.points.last().map_or(1.0, |point| point.0);
    // One point has no extent; a second on either side keeps the axis sound.
    let (first, last) = if last > first { (first, last) } else { (first - 1.0, first + 1.0) };
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 15))
        .margin_left(8)
        .margin_right(24)
        .margin_top(2)
        .x_label_area_size(22)
        .y_label_area_size(70)
        .build_cartesian_2d(first..last, low..high)?
        .set_secondary_coord(first..last, 0.0..3.5);
    for &(from, to) in panel.windows {
        chart.draw_series([Rectangle::new([(from, low), (to, high)], WINDOW.mix(0.35).filled())])?;
    }
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(8)
        .y_labels(4)
        .label_style(("sans-serif", 12))
        .x_label_formatter(&|position| axis(*position))
        .draw()?;
    if !panel.scores.is_empty() {
        chart.draw_secondary_series(LineSeries::new(panel.scores.iter().copied(), SCORE.mix(0.55)))?;
    }
    chart.draw_series(LineSeries::new(panel.points.iter().copied(), &LINE))?;
    let marks = panel.alerts.iter().map(|&point| Circle::new(point, 4, ALERT.filled()));
    chart.draw_series(marks)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(points: &[(f64, f64)]) -> Panel<'_> {
        Panel {
            title: String::from("t"),
            points,
            scores: &[],
            alerts: vec![(0.0, 1.0)],
            windows: &[(0.0, 1.0)],
        }
    }

    #[test]
    fn draws_a_picture_of_the_announced_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.png");
        draw(&path, "title", &[panel(&[(0.0, 1.0), (1.0, 2.0)]), panel(&[]), panel(&[(1.4e9, 5.0)])], |at| {
            format!("{at:.1}")
        })
        .unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
        let width = u32::from_be_bytes(bytes[16..20].try_into().unwrap());
        assert_eq!(width, WIDTH);
    }

    #[test]
    fn a_constant_series_and_one_with_gaps_have_a_range() {
        assert_eq!(range([5.0, 5.0].into_iter()), (2.5, 7.5));
        assert_eq!(range([f64::NAN].into_iter()), (0.0, 1.0));
    }

    #[test]
    fn a_folder_that_does_not_exist_is_an_error_that_names_the_file() {
        let error = draw(Path::new("/nonexistent/p.png"), "t", &[panel(&[(0.0, 1.0)])], |_| String::new())
            .unwrap_err();
        assert!(error.to_string().contains("/nonexistent/p.png"), "{error}");
        assert!(draw(Path::new("p.jpg"), "t", &[], |_| String::new()).is_err());
    }
}
