"""The same file by torch: a DataLoader, packed sequences, and a row of the answer for each. As one would write it.

    python -m benchmarks.peers.score_torch IN.parquet OUT.parquet WEIGHTS.safetensors [--sorted] [--workers 1]

`--sorted` sorts the rows of some thousands by their lengths before they are put into batches, and back behind it, which
takes some care but no more than that. Prints a line of JSON: rows and seconds, without the imports.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, IterableDataset

#: Rows that are read, and with --sorted sorted, at a time.
READ = 4096


class Sequences(IterableDataset[tuple[PackedSequence, list[int]]]):
    """Batches of packed sequences with the rows that they are."""

    def __init__(self, path: str, features: int, batch: int, by_length: bool) -> None:
        super().__init__()
        self.path, self.features, self.batch, self.by_length = path, features, batch, by_length

    def __iter__(self) -> Iterator[tuple[PackedSequence, list[int]]]:
        """A file's rows, some thousands at a time."""
        first = 0
        with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20) as file:
            for read in file.iter_batches(READ, columns=["inputs"], use_threads=False):
                column = read.column(0)
                ends = np.cumsum(pc.list_value_length(column).to_numpy())
                flat = torch.from_numpy(column.flatten().flatten().to_numpy().copy()).reshape(-1, self.features)
                each = list(torch.tensor_split(flat, torch.from_numpy(ends[:-1].astype(np.int64))))
                order = sorted(range(len(each)), key=lambda k: -len(each[k])) if self.by_length else range(len(each))
                rows = list(order)
                for k in range(0, len(rows), self.batch):
                    some = rows[k : k + self.batch]
                    yield (
                        pack_sequence([each[row] for row in some], enforce_sorted=self.by_length),
                        [first + row for row in some],
                    )
                first += len(each)


def main() -> None:
    """Scores the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source")
    parser.add_argument("output")
    parser.add_argument("weights")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sorted", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    weights = load_file(options.weights)
    units, features = weights["weight_hh_l0"].shape[1], weights["weight_ih_l0"].shape[1]
    module = torch.nn.LSTM(features, units, len(weights) // 4).eval()
    module.load_state_dict(weights)
    began = time.monotonic()
    total = pq.ParquetFile(options.source).metadata.num_rows
    scores = np.empty((total, units), np.float32)
    dataset = Sequences(options.source, features, options.batch, options.sorted)
    with torch.inference_mode():
        for packed, rows in DataLoader(dataset, batch_size=None, num_workers=options.workers):
            scores[rows] = module(packed)[1][0][-1].numpy()
    column = pa.FixedSizeListArray.from_arrays(pa.array(scores.reshape(-1)), units)
    pq.write_table(pa.table({"last_output": column}), options.output, use_dictionary=False)
    print(json.dumps({"rows": total, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
