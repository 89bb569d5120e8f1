"""What a strategy is made of: the protocol of a stage, and the stages that need no room of their
own.
"""
