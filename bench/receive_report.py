"""What a run of ``receive.py`` says: tables, targets and the section of the documentation.

The JSON of a run enters; rich tables on standard output, ``docs/benchmarks.md`` and its picture
leave. All figures are medians of the rounds.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from receive_picture import draw_rates
from rich.console import Console
from rich.table import Table

DOCS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
HEADING = "## Receiving"
NODELAY, SYNCED, NOTHING = "dcmtk-nodelay", "pynetdicom-sync", "nothing"
TLS = ("osteon-tls12", "osteon-tls13")
MEDIANS = ("instances_per_s", "mb_per_s", "ack_ms_p50", "ack_ms_p99", "cpu_ms")
ALL_ASSOCIATIONS = (1, 4, 16)


@dataclass(frozen=True)
class Target:
    """Something that is asked of Osteon; ``value`` is None where it was not measured."""

    words: str
    value: float | None
    limit: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether it is met; what was not measured is not."""
        if self.value is None:
            return False
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class Summary:
    """The medians of a run.

    Parameters
    ----------
    report : dict
        What ``receive.py`` wrote as JSON.
    """

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.report = report
        self.names: dict[str, str] = report["receivers"]
        self._samples: list[dict[str, Any]] = report["samples"]

    def median(self, figure: str, **about: object) -> float | None:
        """Return the median of a figure over all samples that are about this, or None."""
        values = [s[figure] for s in self._samples if figure in s and s.items() >= about.items()]
        return statistics.median(values) if values else None

    def raw(
        self, figure: str, receiver: str, associations: int, data_set: str = "ct"
    ) -> float | None:
        """Return a figure of our own sender."""
        return self.median(
            figure, sender="raw", receiver=receiver, associations=associations, data_set=data_set
        )

    def errors(self) -> list[str]:
        """Return what went wrong, in words."""
        return [
            f"{s['receiver']}, round {s['round']}: {s['error']}"
            for s in self._samples
            if "error" in s
        ]

    def targets(self) -> list[Target]:
        """Return what is asked of the receiver, and what was measured; all of CT 512²."""
        rate = lambda name, n: self.raw("instances_per_s", name, n)  # noqa: E731 - three words
        cpu = lambda name, n: self.raw("cpu_ms", name, n)  # noqa: E731 - three words
        asked = []
        for n, times_dcmtk, times_pynetdicom in ((4, 1.0, 6.0), (1, 0.6, 4.0)):
            words = f"{n} association{'s' * (n > 1)}: rate ÷"
            ours = rate("osteon", n)
            most = _shown(_ratio(self._floor(n), rate(SYNCED, n)))
            asked += [
                Target(f"{words} DCMTK NODELAY", _ratio(ours, rate(NODELAY, n)), times_dcmtk),
                Target(
                    f"{words} pynetdicom + fdatasync; the disk alone: {most}",
                    _ratio(ours, rate(SYNCED, n)),
                    times_pynetdicom,
                ),
            ]
        many = _ratio(rate("osteon", 16), rate("osteon", 4))
        asked.append(Target("16 associations: rate ÷ 4 associations", many, 1.0))
        for sender in ("dcmsend", "storescu"):
            theirs = [self._sent_by(sender, name) for name in (NODELAY, "dcmtk")]
            best = max((value for value in theirs if value), default=None)
            value = _ratio(self._sent_by(sender, "osteon"), best)
            most = _ratio(self._sent_by(sender, NOTHING), best)
            words = f"{sender}: rate ÷ better DCMTK storescp; a receiver that keeps nothing:"
            asked.append(Target(f"{words} {_shown(most)}", value, 2.0))
        for n in (1, 4):
            value = _ratio(cpu("osteon", n), cpu(NODELAY, n))
            words = f"{n} association{'s' * (n > 1)}: CPU per instance ÷ DCMTK NODELAY"
            asked.append(Target(words, value, 2.0, at_least=False))
        echo_ms = self.median("echo_ms_p50", receiver="osteon")
        idle = self.median("idle_percent", receiver="osteon")
        asked.append(
            Target("C-ECHO on an open association, p50 in ms", echo_ms, 0.5, at_least=False)
        )
        asked.append(Target("idle association, % of a core", idle, 0.1, at_least=False))
        return asked

    def show(self) -> None:
        """Print everything."""
        console = Console(width=None if Console().is_terminal else 130)
        for table in self._tables():
            console.print(table)
        for error in self.errors():
            console.print(f"[red]{error}[/red]")
        console.print(
            f"Medians of {self.report['rounds']} rounds, {self.report['seconds']:.0f} s; other"
            f" programs took {_shown(self.median('others_cores', sender='raw'))} cores meanwhile"
        )

    def write_docs(self, path: Path) -> None:
        """Replace the section of the documentation, and draw its picture."""
        picture = path.parent / "pictures" / "receiving.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        rates = {
            words: [self.raw("instances_per_s", name, n) for n in ALL_ASSOCIATIONS]
            for name, words in self.names.items()
            if name not in {*TLS, NOTHING}
        }
        draw_rates(picture, "Instances a second, CT of 512 by 512 pixels", ALL_ASSOCIATIONS, rates)
        text = path.read_text() if path.exists() else "# Benchmarks\n"
        before, _, rest = text.partition(f"{HEADING}\n")
        _, heading, after = rest.partition("\n## ")
        path.write_text(f"{before.rstrip()}\n\n{self._section()}{heading}{after}")

    def _floor(self, threads: int) -> float | None:
        """What a bare loop on this disk comes to."""
        return self.median("instances_per_s", sender="floor", associations=threads)

    def _sent_by(self, sender: str, receiver: str) -> float | None:
        return self.median("instances_per_s", sender=sender, receiver=receiver)

    def _tables(self) -> Iterator[Table]:
        yield self._rates()
        yield self._others()
        yield self._tls()
        table = Table("target", "value", "asked", "met", title="Targets of Osteon")
        for target in self.targets():
            sign = "≥" if target.at_least else "≤"
            met = "[green]yes[/green]" if target.met else "[red]no[/red]"
            table.add_row(target.words, _shown(target.value), f"{sign} {target.limit:g}", met)
        yield table

    def _rates(self) -> Table:
        table = Table(title="Receiving, our own sender")
        for column in ("data set", "receiver"):
            table.add_column(column)
        for column in (
            "assoc.",
            "instances/s",
            "MB/s",
            "p50 ms",
            "p99 ms",
            "CPU ms",
            "× DCMTK",
            "× pynet.",
        ):
            table.add_column(column, justify="right")
        for data_set, words in self.report["data_sets"].items():
            for n in ALL_ASSOCIATIONS:
                base = [
                    self.raw("instances_per_s", name, n, data_set) for name in (NODELAY, SYNCED)
                ]
                for name in self.names:
                    row = [self.raw(figure, name, n, data_set) for figure in MEDIANS]
                    if row[0] is not None:
                        row += [_ratio(row[0], value) for value in base]
                        table.add_row(words, self.names[name], str(n), *map(_shown, row))
                if table.row_count:
                    table.add_section()
        return table

    def _others(self) -> Table:
        table = Table(
            "receiver", title="DCMTK's senders (CT 512², instances/s), C-ECHO and idleness"
        )
        for column in ("storescu", "dcmsend", "C-ECHO p50 ms", "idle % of a core"):
            table.add_column(column, justify="right")
        for name, words in self.names.items():
            if name not in TLS:
                table.add_row(words, *map(_shown, self._other_figures(name)))
        return table

    def _tls_figures(self) -> Iterator[list[str]]:
        """Name, rates of 1 and 4 associations, and both as parts of the plain ones."""
        for name in TLS:
            rates = [self.raw("instances_per_s", name, n) for n in (1, 4)]
            plain = [self.raw("instances_per_s", "osteon", n) for n in (1, 4)]
            parts = [_ratio(*both) for both in zip(rates, plain, strict=True)]
            if name in self.names:
                yield [self.names[name], *map(_shown, (*rates, *parts))]

    def _tls(self) -> Table:
        table = Table("receiver", title="Mutual TLS (CT 512², instances/s)")
        for column in ("1", "4 associations", "1 ÷ plain", "4 ÷ plain"):
            table.add_column(column, justify="right")
        for row in self._tls_figures():
            table.add_row(*row)
        return table

    def _other_figures(self, name: str) -> list[float | None]:
        sent = [self._sent_by(sender, name) for sender in ("storescu", "dcmsend")]
        echo_ms = self.median("echo_ms_p50", receiver=name)
        return [*sent, echo_ms, self.median("idle_percent", receiver=name)]

    def _section(self) -> str:
        machine = self.report["machine"]
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        others = self.median("others_cores", sender="raw") or 0.0
        lines = [
            HEADING,
            "",
            f"`make bench-receive`, {self.report['when'][:10]}: {machine['cores']} cores"
            f" ({machine['cpu']}), {machine['file_system']}, Linux {machine['kernel']}, Python"
            f" {machine['python']}, {versions}. Sender and receiver share the machine. Medians of"
            f" {self.report['rounds']} rounds that visit one receiver after the other, each with an"
            " empty store; every instance that was acknowledged was found in the store. Other"
            f" programs took {others:.1f} cores meanwhile.",
            "",
            "The sender encodes everything before the clock starts and waits for each answer. MB/s,"
            " the times to an answer and CPU time per instance are of 4 associations. The last"
            " column says what is on the disk when the answer is given: where nothing is, a power"
            " cut takes instances that were acknowledged. The receiver that keeps nothing is"
            " Osteon's own network path with nothing behind it, so its figures are what the senders"
            " can do at most."
            " A bare loop that writes, hashes and syncs such slices and their rows, without any"
            f" network, comes to {_shown(self._floor(1))} instances/s in one thread and to"
            f" {_shown(self._floor(4))} in four.",
            "",
            "![Instances a second](pictures/receiving.png)",
            "",
        ]
        for data_set in ("ct", "mr"):
            lines += [*self._markdown_rates(data_set), ""]
        lines += [*self._markdown_others(), "", *self._markdown_tls(), ""]
        return "\n".join(lines)

    def _markdown_rates(self, data_set: str) -> Iterator[str]:
        columns = [
            "1",
            "4",
            "16 associations",
            "MB/s",
            "p50 ms",
            "p99 ms",
            "CPU ms",
            "synced first",
        ]
        yield _row([f"{self.report['data_sets'][data_set]}, instances/s", *columns])
        yield _row(["---", *["---:"] * 7, "---"])
        for name, words in self.names.items():
            if name in TLS:
                continue
            rates = [self.raw("instances_per_s", name, n, data_set) for n in ALL_ASSOCIATIONS]
            more = [self.raw(figure, name, 4, data_set) for figure in MEDIANS[1:]]
            yield _row([words, *map(_shown, (*rates, *more)), self.report["synced"][name]])

    def _markdown_tls(self) -> Iterator[str]:
        yield _row(
            ["Mutual TLS, CT 512², instances/s", "1", "4 associations", "1 ÷ plain", "4 ÷ plain"]
        )
        yield _row(["---", *["---:"] * 4])
        yield from map(_row, self._tls_figures())

    def _markdown_others(self) -> Iterator[str]:
        multi = self.report["data_sets"]["multi"]
        columns = [f"{multi}, MB/s", "storescu/s", "dcmsend/s", "C-ECHO p50 ms", "idle %"]
        yield _row(["", *columns])
        yield _row(["---", *["---:"] * 5])
        for name, words in self.names.items():
            if name in TLS:
                continue
            rate = self.raw("mb_per_s", name, 1, "multi")
            yield _row([words, *map(_shown, (rate, *self._other_figures(name)))])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _shown(value: float | None) -> str:
    """Three digits, as far as a value has them."""
    if value is None:
        return "–"
    digits: Callable[[float], str] = "{:,.0f}".format if abs(value) >= 100 else "{:#.3g}".format
    return digits(value).replace(",", " ").rstrip(".")
