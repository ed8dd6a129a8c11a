"""What a browser shows: one neutral form of a timeline, the page of a report, and the code that
draws both.
"""
