"""Commands: one public function and one file each."""
