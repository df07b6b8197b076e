"""The parts of `scripts/bench jobs`: systems that carry jobs, and what is measured of them."""
