"""Writes the table of docs/heads.md that says how many classes fit in a memory.

python docs/make_capacity.py            write the table
python docs/make_capacity.py --check    exit with 1 if it is out of date
"""

import sys
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).with_name("heads.md")
BEGIN = "<!-- capacity: written by docs/make_capacity.py -->\n"
END = "<!-- end of capacity -->\n"

DIM = 512
BATCH = 1024
MEMORIES = (16, 24, 40, 80)  # GB of 10^9 bytes
WORKSPACE = 500_000_000  # bytes for our buffers of a chunk, whatever the number of classes

STATES = {"sgd": 1, "adamw": 2}  # numbers that an optimizer keeps for each weight


@dataclass(frozen=True)
class Row:
    """A way to hold classes.

    Attributes:
        head: whose: "ours" or "PartialFC".
        itemsize: bytes of a weight, of its gradient and of its optimizer state.
        optimizer: a key of `STATES`.
        fused: whether the update happens in the backward pass, so that there is no gradient.
        rate: part of the classes that a step looks at.
    """

    head: str
    itemsize: int
    optimizer: str
    fused: bool
    rate: float = 1.0

    @property
    def bytes_per_class(self) -> float:
        """Bytes that grow with the number of classes.

        Both hold weight, optimizer state and, where it exists, the gradient. Ours adds the fp32
        length of each weight, and with sampling the int32 step at which each was last looked at.
        PartialFC adds twice the fp32 logits of the batch with the classes that a step looks at
        (3 W + 2 logits for SGD: insightface's issue 1989).
        """
        numbers = 1 + STATES[self.optimizer] + (not self.fused)
        held = numbers * self.itemsize * DIM
        if self.head == "PartialFC":
            return held + 2 * 4 * BATCH * self.rate
        return held + 4 * self.rate + (4 if self.rate < 1 else 0)

    @property
    def fixed_bytes(self) -> int:
        """Bytes that do not grow."""
        return WORKSPACE if self.head == "ours" else 0

    def classes(self, memory: int) -> int:
        """The largest number of classes in so many bytes."""
        return int((memory - self.fixed_bytes) // self.bytes_per_class)


ROWS = [
    Row("PartialFC", 4, "sgd", fused=False),
    Row("PartialFC", 4, "sgd", fused=False, rate=0.1),
    Row("PartialFC", 4, "adamw", fused=False),
    Row("ours", 4, "sgd", fused=False),
    Row("ours", 4, "adamw", fused=False),
    Row("ours", 4, "sgd", fused=True),
    Row("ours", 4, "sgd", fused=True, rate=0.1),
    Row("ours", 4, "adamw", fused=True),
    Row("ours", 2, "sgd", fused=True),
    Row("ours", 2, "adamw", fused=True),
]


def table() -> str:
    """The text between the markers."""
    memories = " | ".join(f"{memory} GB" for memory in MEMORIES)
    lines = [
        f"| head | numbers | optimizer | rate | bytes a class | {memories} |",
        "| --- | --- | --- | --- | ---" + " | ---" * len(MEMORIES) + " |",
    ]
    for row in ROWS:
        name = f"{row.head}, fused update" if row.fused else row.head
        numbers = {4: "fp32", 2: "bf16"}[row.itemsize]
        millions = [row.classes(memory * 10**9) / 1e6 for memory in MEMORIES]
        # Cut, not rounded: what is said must fit.
        cells = " | ".join(f"{int(10 * count) / 10:.1f}" for count in millions)
        lines.append(
            f"| {name} | {numbers} | {row.optimizer} | {row.rate:g} | {row.bytes_per_class:,.0f} "
            f"| {cells} |"
        )
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The text of the page with the table as it should be."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> int:
    """Write or check the table; the exit code."""
    text = PAGE.read_text("utf-8")
    if "--check" in sys.argv[1:]:
        return int(text != page(text))
    PAGE.write_text(page(text), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
