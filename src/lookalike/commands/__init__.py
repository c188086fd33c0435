"""What the program does, one public function and one file each; the only readers of Config."""
