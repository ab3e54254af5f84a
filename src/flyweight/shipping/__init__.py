"""What joins the rooms below into one deliverable: for now the demo."""
