"""The commands of ``polymode video``: one file each."""
