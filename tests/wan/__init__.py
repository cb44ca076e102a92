"""A WAN on one machine: hosts in network namespaces, joined by a router that delays, limits, loses and cuts."""
