"""intellectd.daemon"""
