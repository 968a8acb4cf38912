"""A job file's list of batches, read and handed in to the node."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cli.blob import handed_over
from cli.client import Client
from cli.errors import UserError
from learner import batch_file
from learner.errors import InvalidBatches
from learner.npz import NumpyMissing
from node.api import schema


def handed_in(client: Client, spec: schema.JobSpec) -> schema.JobSpec:
    """The job with its batches named by their digest, after the node has the file that it named.

    Raises:
        UserError: names the file, and the line or the shape.
    """
    if spec.batches is None or not spec.batches.endswith(batch_file.SUFFIXES):
        return spec
    path = Path(spec.batches)
    try:
        content = batch_file.read(path, spec.steps, spec.batch_size)
    except FileNotFoundError:
        raise UserError(f"no file at {path}, which `batches` of the job names") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (InvalidBatches, NumpyMissing) as error:
        raise UserError(str(error)) from None
    with handed_over(client, content) as handed:
        found = client.call("fl_addBatches", schema.BlobInfo, {"path": handed})
    return msgspec.structs.replace(spec, batches=found.digest)
