"""Adapters: one small module for each exporter that can be put under test."""
