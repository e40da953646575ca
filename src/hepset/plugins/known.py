"""Which distribution of the hepset family provides a component, for hints when it is missing."""

from __future__ import annotations

from hepset.plugins.hookspecs import Kind

DISTRIBUTION_OF: dict[tuple[Kind, str], str] = {
    ("backbones", "part"): "hepset-jetclass",
    ("backbones", "pet"): "hepset-evenet",
    ("backbones", "pointnet"): "hepset-pointnet",
    ("dialects", "evenet"): "hepset-evenet",
    ("dialects", "spanet"): "hepset-spanet",
    ("dialects", "umami"): "hepset-umami",
    ("dialects", "weaver"): "hepset-jetclass",
    ("heads", "assignment"): "hepset-assignment",
    ("heads", "point-energy"): "hepset-pointnet",
    ("heads", "recon-generation"): "hepset-truthgen",
    ("heads", "segmentation"): "hepset-seg",
    ("heads", "truth-generation"): "hepset-truthgen",
    ("readers", "delphes"): "hepset-jetclass",
    ("readers", "evenet-npz"): "hepset-evenet",
    ("readers", "evenet-parquet"): "hepset-evenet",
    ("readers", "jetclass"): "hepset-jetclass",
    ("readers", "mltree"): "hepset-pointnet",
    ("readers", "pythia"): "hepset-pythia",
    ("readers", "spanet-hdf5"): "hepset-spanet",
    ("readers", "tdd-hdf5"): "hepset-umami",
    ("writers", "evenet-parquet"): "hepset-evenet",
    ("writers", "jetclass-root"): "hepset-jetclass",
    ("writers", "spanet-hdf5"): "hepset-spanet",
    ("writers", "umami-hdf5"): "hepset-umami",
    ("writers", "umami-tfrecord"): "hepset-umami",
}
"""(kind, name) to the distribution that provides it."""
