//! The charts, as SVG on white, with one colour for each peer.

use std::fs;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontFamily, FontStyle};
use scenario::protocol::Measured;

use crate::Failure;
use crate::peers::{PEERS, PeerInfo};
use crate::results::Results;
use crate::table::{self, Column, Group};

/// The files, and what they show.
pub(crate) const TITLES: &[(&str, &str)] = &[
    ("peers-append.svg", "Appends by number of writers"),
    ("peers-live.svg", "Delivery by number of live streams"),
    ("peers-durable.svg", "Delivery by number of durable streams"),
    ("peers-delay.svg", "Delay from append to handler"),
    ("peers-replay.svg", "Replay"),
    ("peers-memory.svg", "Memory while a handler lags"),
];

const SIZE: (u32, u32) = (860, 440);
/// Of the legend, beside the lines.
const LEGEND_WIDTH: u32 = 190;

pub(crate) fn write_all(results: &Results, folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder)?;
    let appends = &table::APPENDS.columns[..4];
    let [append, live, durable, delay, replay, memory] = TITLES else {
        unreachable!("six charts")
    };
    lines(results, appends, "events/s", &folder.join(append.0), append.1)?;
    let rate = "handled events/s";
    lines(results, table::LIVE.columns, rate, &folder.join(live.0), live.1)?;
    lines(
        results,
        table::DURABLE.columns,
        rate,
        &folder.join(durable.0),
        durable.1,
    )?;
    lines(
        results,
        table::DELAY.columns,
        "microseconds",
        &folder.join(delay.0),
        delay.1,
    )?;
    bars(
        results,
        &table::REPLAY,
        "events/s",
        &folder.join(replay.0),
        replay.1,
    )?;
    bars(
        results,
        &table::MEMORY,
        "MiB above idle",
        &folder.join(memory.0),
        memory.1,
    )
}

/// A line for each peer, over the columns of a table.
fn lines(results: &Results, columns: &[Column], unit: &str, path: &Path, title: &str) -> Result<(), Failure> {
    let series: Vec<_> = PEERS
        .iter()
        .map(|peer| (peer, points(results, columns, peer)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let Some((low, high)) = decades(series.iter().flat_map(|(_, points)| points.iter().map(|it| it.1)))
    else {
        return Ok(());
    };
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (plot, legend) = root.split_horizontally(SIZE.0 - LEGEND_WIDTH);
    let last = columns.len() as f64 - 1.0;
    let mut chart = ChartBuilder::on(&plot)
        .caption(title, font(20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(84)
        .build_cartesian_2d(-0.3..last + 0.3, (low..high).log_scale())?;
    let header = |x: &f64| {
        let is_column = (x - x.round()).abs() < 1e-6 && (0.0..=last).contains(x);
        if is_column {
            columns[x.round() as usize].header.to_owned()
        } else {
            String::new()
        }
    };
    chart
        .configure_mesh()
        .x_labels(columns.len())
        .x_label_formatter(&header)
        .y_label_formatter(&|y| tick(*y))
        .y_desc(unit)
        .label_style(font(13))
        .axis_desc_style(font(14))
        .bold_line_style(RGBColor(205, 205, 205))
        .light_line_style(RGBColor(238, 238, 238))
        .disable_x_mesh()
        .draw()?;
    for (row, (peer, points)) in series.iter().enumerate() {
        let colour = colour(peer);
        chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
        let y = 70 + 26 * row as i32;
        legend.draw(&Rectangle::new([(4, y - 5), (22, y + 5)], colour.filled()))?;
        legend.draw(&Text::new(peer.name, (30, y), left(14)))?;
    }
    root.present()?;
    Ok(())
}

/// What was measured, and the column it belongs to.
fn points(results: &Results, columns: &[Column], peer: &PeerInfo) -> Vec<(f64, f64)> {
    let values = columns.iter().enumerate().filter_map(|(index, column)| {
        let value = (column.value)(&results.measured(column.scenario, peer.name)?);
        (value > 0.0).then_some((index as f64, value))
    });
    values.collect()
}

/// A bar for each peer, for the first column of a table.
fn bars(results: &Results, group: &Group, unit: &str, path: &Path, title: &str) -> Result<(), Failure> {
    let column = &group.columns[0];
    let measured: Vec<_> = PEERS
        .iter()
        .filter_map(|peer| Some((peer, results.measured(column.scenario, peer.name)?)))
        .filter(|(_, measured)| (column.value)(measured) > 0.0)
        .collect();
    let Some((low, high)) = decades(measured.iter().map(|(_, measured)| (column.value)(measured))) else {
        return Ok(());
    };
    let rows = measured.len() as f64;
    let root = SVGBackend::new(path, (SIZE.0, 110 + 46 * measured.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    // The labels stand right of the bars.
    let room = (high / low).powf(0.45);
    let mut chart = ChartBuilder::on(&root)
        .caption(title, font(20))
        .margin(12)
        .x_label_area_size(48)
        .y_label_area_size(130)
        .build_cartesian_2d((low..high * room).log_scale(), rows..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_label_formatter(&|x| {
            if *x <= high { tick(*x) } else { String::new() }
        })
        .x_desc(unit)
        .label_style(font(13))
        .axis_desc_style(font(14))
        .bold_line_style(RGBColor(205, 205, 205))
        .light_line_style(RGBColor(238, 238, 238))
        .draw()?;
    for (row, (peer, measured)) in measured.iter().enumerate() {
        let (value, y) = ((column.value)(measured), row as f64 + 0.5);
        let corners = [(low, y - 0.32), (value, y + 0.32)];
        chart.draw_series([Rectangle::new(corners, colour(peer).filled())])?;
        let label = label(group, measured);
        chart.draw_series([EmptyElement::at((value, y)) + Text::new(label, (8, 0), left(13))])?;
        let name = Text::new(peer.name, (-8, 0), anchored(14, HPos::Right));
        chart.draw_series([EmptyElement::at((low, y)) + name])?;
    }
    root.present()?;
    Ok(())
}

/// The figure, and how much there was to do.
fn label(group: &Group, measured: &Measured) -> String {
    let [result, amount] = group.columns else {
        unreachable!("a result and an amount")
    };
    let value = table::figure((result.value)(measured));
    let amount = table::figure((amount.value)(measured));
    let of = if group.is_lower_better {
        format!("{value}, {amount} appended")
    } else {
        format!("{value}, of {amount}")
    };
    of + &table::faults(measured)
}

/// A power of ten.
fn tick(value: f64) -> String {
    if value < 1.0 {
        value.to_string()
    } else {
        table::count_of(value.round() as u64)
    }
}

/// The powers of ten around these values.
fn decades(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let ends = values.fold(None, |ends: Option<(f64, f64)>, value| {
        let (low, high) = ends.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    });
    let (low, high) = ends?;
    let low = 10f64.powf((low * 0.8).log10().floor());
    let high = 10f64.powf((high * 1.2).log10().ceil());
    Some((low, high))
}

fn colour(peer: &PeerInfo) -> RGBColor {
    let (red, green, blue) = peer.colour;
    RGBColor(red, green, blue)
}

fn font(size: u32) -> TextStyle<'static> {
    TextStyle::from((FontFamily::SansSerif, size, FontStyle::Normal)).color(&BLACK)
}

fn left(size: u32) -> TextStyle<'static> {
    anchored(size, HPos::Left)
}

fn anchored(size: u32, horizontal: HPos) -> TextStyle<'static> {
    font(size).pos(Pos::new(horizontal, VPos::Center))
}
