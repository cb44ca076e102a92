"""Network address translators as nftables rules, in the words of RFC 4787.

Owns the rules and the addresses behind them. `full-cone`: mapping and filtering by the inside's endpoint alone: whoever
learns the outside's port may send there. `port-restricted`: that mapping, but only an endpoint that was written to may
answer. `symmetric`: another outside port for each destination, so that what one server sees is of no use to another
peer. All drop what comes unasked, as homes do.
"""

OUTSIDE = "wan0"
INSIDE = "lan0"
GATEWAY = "192.168.77.1"
BEHIND = "192.168.77.2"
MAPPING_S = 120  # RFC 4787 REQ-5: no less than two minutes

_FILTER = f"""
table ip wall {{
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iifname {{ lo, {INSIDE} }} accept
        icmp type echo-request accept
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname {INSIDE} accept
        ct status dnat accept
    }}
}}
"""
_MASQUERADE = """
table ip translate {{
    chain leaving {{
        type nat hook postrouting priority srcnat;
        oifname {outside} masquerade {how}
    }}
}}
"""
_CONE = f"""
table ip cone {{
    map open {{
        type inet_proto . inet_service : ipv4_addr
        timeout {MAPPING_S}s
        size 65535
        flags dynamic,timeout
    }}
    chain note {{
        type filter hook forward priority filter - 1;
        iifname {INSIDE} meta l4proto {{ tcp, udp }} update @open {{ meta l4proto . th sport : ip saddr }}
    }}
    chain arriving {{
        type nat hook prerouting priority dstnat;
        iifname {OUTSIDE} meta l4proto {{ tcp, udp }} dnat to meta l4proto . th dport map @open
    }}
}}
"""


def rules(kind: str) -> str:
    """For nft -f. One host stands behind, so that ports are kept where the kind lets them."""
    how = "fully-random" if kind == "symmetric" else "persistent"
    text = _FILTER + _MASQUERADE.format(outside=OUTSIDE, how=how)
    return text + _CONE if kind == "full-cone" else text
