//! Draws series into PNG files.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use axis::TickAxis;

use crate::hint::Hint;
use plotters::coord::Shift;
use plotters::prelude::*;

mod axis;

/// Built-in font, so that text looks the same on every machine: the Latin part of DejaVu Sans
/// (see `assets/DejaVuSans-LICENSE.txt`).
const FONT: &[u8] = include_bytes!("../assets/DejaVuSans-subset.ttf");

const WIDTH: u32 = 1400;
const BYTES_PER_PIXEL: usize = 3;
const HEADING_HEIGHT: u32 = 66;
/// Height of the strip of scores, including the time labels below it.
const SCORE_STRIP_HEIGHT: i32 = 64;
const TIME_LABEL_HEIGHT: i32 = 22;
/// Width of the value labels left of the panels.
const VALUE_LABEL_WIDTH: i32 = 70;
const MARGIN: i32 = 8;
const LINE: RGBColor = RGBColor(31, 97, 165);
const SCORE: RGBColor = RGBColor(120, 120, 120);
const THRESHOLD: RGBColor = RGBColor(225, 150, 155);
const ALERT: RGBColor = RGBColor(200, 30, 45);
const WINDOW: RGBColor = RGBColor(245, 190, 60);
/// Opacity of a window's shade.
const SHADE: f64 = 0.35;

/// A picture could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("drawing {}: {problem}", .path.display())]
pub struct PlotError {
    /// The file.
    pub path: PathBuf,
    /// What went wrong.
    pub problem: String,
}

impl Hint for PlotError {
    fn hint(&self) -> Option<String> {
        Some(String::from("check that the name ends in .png and that the folder exists and is writable"))
    }
}

/// Checks by opening the file that it is writable. Leaves the content of an existing file as it is.
///
/// # Errors
///
/// [`PlotError`] with the operating system's error.
pub fn check_writable(path: &Path) -> Result<(), PlotError> {
    let wrong = |error: std::io::Error| PlotError { path: path.to_owned(), problem: error.to_string() };
    let existed = path.exists();
    std::fs::OpenOptions::new().append(true).create(true).open(path).map_err(wrong)?;
    if existed { Ok(()) } else { std::fs::remove_file(path).map_err(wrong) }
}

/// One panel of a picture.
pub struct Panel<'a> {
    /// The title.
    pub title: String,
    /// Times in seconds, ascending, and values.
    pub points: &'a [(f64, f64)],
    /// The scores, drawn in a strip below the values.
    pub scores: Option<Scores<'a>>,
    /// Times and values of the alerts.
    pub alerts: Vec<(f64, f64)>,
    /// Labelled windows: start and end times.
    pub windows: &'a [(f64, f64)],
}

/// The scores of a series.
#[derive(Debug, Clone, Copy)]
pub struct Scores<'a> {
    /// Times and scores from 0 to 1.
    pub points: &'a [(f64, f64)],
    /// Lowest score that is an alert.
    pub threshold: f64,
}

/// Formats the time labels below a panel.
pub type TimeFormat = fn(f64) -> String;

/// Draws panels one below the other into a PNG file.
///
/// # Errors
///
/// [`PlotError`] if the file cannot be written.
pub fn draw(
    path: &Path,
    title: &str,
    panels: &[Panel<'_>],
    format_time: TimeFormat,
) -> Result<(), PlotError> {
    let error = |problem: String| PlotError { path: path.to_owned(), problem };
    register_font().map_err(&error)?;
    // Check before drawing: the error of the encoder is less clear.
    if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("png")) {
        return Err(error(String::from("the name does not end in .png")));
    }
    let each = if panels.len() > 4 { 160 } else { 280 };
    let height = HEADING_HEIGHT + each * panels.len().max(1) as u32;
    let mut pixels = vec![0; (WIDTH * height) as usize * BYTES_PER_PIXEL];
    let draw_pixels = |pixels: &mut [u8]| -> Result<(), Box<dyn std::error::Error + '_>> {
        let root = BitMapBackend::with_buffer(pixels, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let (heading, body) = root.split_vertically(HEADING_HEIGHT);
        draw_heading(&heading, title, panels)?;
        for (area, panel) in body.split_evenly((panels.len().max(1), 1)).iter().zip(panels) {
            draw_panel(area, panel, format_time)?;
        }
        root.present()?;
        Ok(())
    };
    draw_pixels(&mut pixels).map_err(|problem| error(problem.to_string()))?;
    write_png(path, height, &pixels).map_err(|problem| error(problem.to_string()))
}

/// Writes rows of RGB pixels, top to bottom.
fn write_png(path: &Path, height: u32, pixels: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), WIDTH, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    Ok(writer.finish()?)
}

fn register_font() -> Result<(), String> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    let registered = *REGISTERED
        .get_or_init(|| plotters::style::register_font("sans-serif", FontStyle::Normal, FONT).is_ok());
    if registered { Ok(()) } else { Err(String::from("the built-in font is unreadable")) }
}

type Area<'b> = DrawingArea<BitMapBackend<'b>, Shift>;
type Drawn<'b> = Result<(), DrawingAreaErrorKind<<BitMapBackend<'b> as DrawingBackend>::ErrorType>>;

/// Draws the title and the legend of the marks that the picture contains.
fn draw_heading<'b>(area: &Area<'b>, title: &str, panels: &[Panel<'_>]) -> Drawn<'b> {
    area.draw(&Text::new(title, (VALUE_LABEL_WIDTH + MARGIN, 10), ("sans-serif", 22)))?;
    let (mut x, y) = (VALUE_LABEL_WIDTH + MARGIN, 48);
    let line = |x: i32, colour: &RGBColor| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2));
    let mut label = |text: &str| -> Result<i32, _> {
        let style = ("sans-serif", 14).into_text_style(area);
        let (width, _) = area.estimate_text_size(text, &style)?;
        area.draw(&Text::new(text, (x + 28, y - 8), style))?;
        let began = x;
        x += 28 + width as i32 + 30;
        Ok(began)
    };
    area.draw(&line(label("value")?, &LINE))?;
    if panels.iter().any(|panel| panel.scores.is_some()) {
        area.draw(&line(label("score")?, &SCORE))?;
        area.draw(&line(label("threshold")?, &THRESHOLD))?;
    }
    if panels.iter().any(|panel| !panel.alerts.is_empty()) {
        area.draw(&Circle::new((label("alert")? + 10, y), 4, ALERT.filled()))?;
    }
    if panels.iter().any(|panel| !panel.windows.is_empty()) {
        let x = label("labelled window")?;
        area.draw(&Rectangle::new([(x, y - 7), (x + 20, y + 7)], WINDOW.mix(SHADE).filled()))?;
    }
    Ok(())
}

fn draw_panel<'b>(area: &Area<'b>, panel: &Panel<'_>, format_time: TimeFormat) -> Drawn<'b> {
    let first = panel.points.first().map_or(0.0, |point| point.0);
    let last = panel.points.last().map_or(1.0, |point| point.0);
    // A single point has no extent: widen the axis by one second on either side.
    let (first, last) = if last > first { (first, last) } else { (first - 1.0, first + 1.0) };
    let height = area.dim_in_pixel().1 as i32;
    let (upper, lower) =
        area.split_vertically(if panel.scores.is_some() { height - SCORE_STRIP_HEIGHT } else { height });
    let (low, high) = axis::range(panel.points.iter().map(|point| point.1));
    let mut chart = ChartBuilder::on(&upper)
        .caption(&panel.title, ("sans-serif", 15))
        .margin_left(MARGIN)
        .margin_right(3 * MARGIN)
        .margin_top(2)
        .x_label_area_size(if panel.scores.is_some() { 2 } else { TIME_LABEL_HEIGHT })
        .y_label_area_size(VALUE_LABEL_WIDTH)
        .build_cartesian_2d(TickAxis::time(first, last), low..high)?;
    let shade = |(from, to): (f64, f64), low, high| {
        Rectangle::new([(from, low), (to, high)], WINDOW.mix(SHADE).filled())
    };
    chart.draw_series(panel.windows.iter().map(|&window| shade(window, low, high)))?;
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT).bold_line_style(BLACK.mix(0.12)).y_labels(4);
    mesh.label_style(("sans-serif", 12)).y_label_formatter(&|value| axis::quantity(*value));
    let position = |position: &f64| format_time(*position);
    if panel.scores.is_none() {
        mesh.x_label_formatter(&position);
    } else {
        mesh.x_label_formatter(&|_| String::new());
    }
    mesh.draw()?;
    chart.draw_series(LineSeries::new(panel.points.iter().copied(), &LINE))?;
    chart.draw_series(panel.alerts.iter().map(|&point| Circle::new(point, 4, ALERT.filled())))?;
    let Some(scores) = panel.scores else { return Ok(()) };
    let mut strip = ChartBuilder::on(&lower)
        .margin_left(MARGIN)
        .margin_right(3 * MARGIN)
        .x_label_area_size(TIME_LABEL_HEIGHT)
        .y_label_area_size(VALUE_LABEL_WIDTH)
        .build_cartesian_2d(TickAxis::time(first, last), TickAxis::new(0.0..1.0, vec![scores.threshold]))?;
    strip.draw_series(panel.windows.iter().map(|&window| shade(window, 0.0, 1.0)))?;
    strip
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(("sans-serif", 12))
        .x_label_formatter(&position)
        .y_label_formatter(&|score| axis::quantity(*score))
        .draw()?;
    strip.draw_series(LineSeries::new(scores.points.iter().copied(), &SCORE))?;
    let threshold = [(first, scores.threshold), (last, scores.threshold)];
    strip.draw_series(LineSeries::new(threshold, &THRESHOLD))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(points: &[(f64, f64)]) -> Panel<'_> {
        Panel {
            title: String::from("t"),
            points,
            scores: Some(Scores { points, threshold: 0.5 }),
            alerts: vec![(0.0, 1.0)],
            windows: &[(0.0, 1.0)],
        }
    }

    #[test]
    fn draws_a_picture_of_the_expected_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.png");
        draw(&path, "title", &[panel(&[(0.0, 1.0), (1.0, 2.0)]), panel(&[]), panel(&[(1.4e9, 5.0)])], |at| {
            format!("{at:.1}")
        })
        .unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
        let side = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((side(16), side(20)), (WIDTH, HEADING_HEIGHT + 3 * 280));
    }

    #[test]
    fn a_folder_that_does_not_exist_is_an_error_that_names_the_file() {
        let error = draw(Path::new("/nonexistent/p.png"), "t", &[panel(&[(0.0, 1.0)])], |_| String::new())
            .unwrap_err();
        assert!(error.to_string().contains("/nonexistent/p.png"), "{error}");
        assert!(draw(Path::new("p.jpg"), "t", &[], |_| String::new()).is_err());
    }
}
