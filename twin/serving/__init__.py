"""From engines to a cluster: gateway, routers, pods, rollouts, capacity, and what a scraper
sees.
"""
