from .predict import predict_files as predict_files
from .predict import predict_split as predict_split
from .predictions import ParquetWriter as ParquetWriter
