//! Items joined by ` & `, their parts by `, `: what most lines are made of.

use std::net::IpAddr;
use std::str::FromStr;

use super::End;
use crate::{Address, Port};

/// An item of a line.
pub(super) trait Item<'a>: Sized {
    fn read(text: &'a str) -> Option<Self>;
    fn write(&self, out: &mut String);
}

/// The items that can be read.
pub(super) fn read<'a, T: Item<'a>>(text: &'a str) -> Vec<T> {
    text.split('&').filter_map(|item| T::read(item.trim())).collect()
}

pub(super) fn write<'a, T: Item<'a>>(items: &[T], out: &mut String) {
    for (number, item) in items.iter().enumerate() {
        if number > 0 {
            out.push_str(" & ");
        }
        item.write(out);
    }
}

/// The parts of an item, one after the other.
pub(super) struct Parts<'a>(std::str::Split<'a, char>);

impl<'a> Parts<'a> {
    pub(super) fn of(item: &'a str) -> Self {
        Self(item.split(','))
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        self.0.next().map(str::trim)
    }

    pub(super) fn value<T: FromStr>(&mut self) -> Option<T> {
        self.text()?.parse().ok()
    }

    pub(super) fn end(&mut self) -> Option<End> {
        let address: IpAddr = self.value()?;
        Some((Address::from(address), Port(self.value()?)))
    }

    /// Nothing more must follow.
    pub(super) fn finish(mut self) -> Option<()> {
        self.0.next().is_none().then_some(())
    }
}

/// Text for people inside an item: separators become spaces, except for those in `kept`.
pub(super) fn put_text(text: &str, kept: &[char], out: &mut String) {
    let is_separator = |c: char| matches!(c, '&' | ',' | '|') && !kept.contains(&c) || c.is_control();
    out.extend(text.trim().chars().map(|c| if is_separator(c) { ' ' } else { c }));
}
