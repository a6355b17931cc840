"""Jobs of several runs on Ray: plan, content-addressed results, report."""
