"""Speed beside the peers; run by ``make bench`` on an otherwise idle machine."""
