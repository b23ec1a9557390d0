"""Turns reports into text: documents for programs, tables for people."""
