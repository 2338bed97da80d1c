"""From scored probes to retention, its uncertainty, the verdict and the page. No torch, no database."""
