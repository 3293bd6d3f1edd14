"""How fast LLM-MDE is, beside what it is made of and what else estimates depth: `python -m benchmarks`, anywhere."""
