"""What runs inside a jail. Standard library only; nothing here is trusted by the parent.

The imports are relative: in a jail this folder is a package of its own, without the project.
"""
